#include "network/program.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace fp {

namespace {

[[noreturn]] void fail(std::size_t op, const std::string& what) {
  throw std::invalid_argument("program: operation " + std::to_string(op) + ": " + what);
}

}  // namespace

void Program::validate() const {
  const int values = static_cast<int>(widths.size()), params = static_cast<int>(parameters.size());
  // Products of two sizes must fit in int64 with room for strides and bytes.
  constexpr int64_t most = int64_t(1) << 40;
  if (widths.empty()) throw std::invalid_argument("program: expected at least one value, the input");
  for (int64_t w : widths)
    if (w < 1 || w >= most)
      throw std::invalid_argument("program: expected widths from 1, received " + std::to_string(w));
  for (const Parameter& p : parameters)
    if (p.rows < 0 || p.cols < 0 || p.rows >= most || p.cols >= most || (p.rows > 0 && p.cols > most / p.rows))
      throw std::invalid_argument("program: a parameter of " + std::to_string(p.rows) + " x " + std::to_string(p.cols) +
                                  " elements is too large");
  std::vector<char> defined(widths.size(), 0);
  defined[0] = 1;
  for (std::size_t i = 0; i < operations.size(); ++i) {
    const Operation& op = operations[i];
    if (op.input < 0 || op.input >= values || !defined[op.input]) fail(i, "its input is not computed before it");
    if (op.output <= 0 || op.output >= values || defined[op.output]) fail(i, "its output is not a new value");
    defined[op.output] = 1;
    const int64_t in = widths[op.input], out = widths[op.output];
    if (op.activation < Activation::linear || op.activation > Activation::softmax) fail(i, "unknown activation");
    switch (op.kind) {
      case OperationKind::dense: {
        if (op.activation == Activation::softmax) fail(i, "softmax is an operation of its own");
        if (op.weights < 0 || op.weights >= params) fail(i, "expected a kernel parameter");
        const Parameter& w = parameters[op.weights];
        if (w.rows != in || w.cols != out)
          fail(i, "expected a kernel of shape (" + std::to_string(in) + ", " + std::to_string(out) + "), received (" +
                      std::to_string(w.rows) + ", " + std::to_string(w.cols) + ")");
        if (op.bias >= params) fail(i, "expected a bias parameter");
        if (op.bias >= 0 && (parameters[op.bias].rows != 1 || parameters[op.bias].cols != out))
          fail(i, "expected a bias of shape (" + std::to_string(out) + ",)");
        break;
      }
      case OperationKind::activation:
      case OperationKind::dropout:
        if (in != out) fail(i, "expected input and output of one width");
        if (op.kind == OperationKind::dropout && !(op.rate >= 0 && op.rate < 1)) fail(i, "expected 0 <= rate < 1");
        if (op.stream > 0xffff) fail(i, "expected a stream below 65536");
        break;
      case OperationKind::python:
        for (int p : op.parameters)
          if (p < 0 || p >= params) fail(i, "expected parameter numbers below " + std::to_string(params));
        break;
    }
  }
  if (output < 0 || output >= values || !defined[output])
    throw std::invalid_argument("program: the output is not a computed value");
}

bool Program::is_native() const {
  return std::none_of(operations.begin(), operations.end(),
                      [](const Operation& op) { return op.kind == OperationKind::python; });
}

bool Program::is_chain() const {
  int value = 0;
  for (const Operation& op : operations) {
    if (op.input != value) return false;
    value = op.output;
  }
  return value == output;
}

int Program::uses(int parameter) const {
  int n = 0;
  for (const Operation& op : operations) {
    n += (op.weights == parameter) + (op.bias == parameter);
    n += static_cast<int>(std::count(op.parameters.begin(), op.parameters.end(), parameter));
  }
  return n;
}

int Program::consumers(int value) const {
  return static_cast<int>(
      std::count_if(operations.begin(), operations.end(), [value](const Operation& op) { return op.input == value; }));
}

int Program::producer(int value) const {
  for (std::size_t i = 0; i < operations.size(); ++i)
    if (operations[i].output == value) return static_cast<int>(i);
  return -1;
}

void BackwardPlan::build(const Program& program, const std::vector<char>& trainable) {
  const auto& ops = program.operations;
  value_needed.assign(program.widths.size(), 0);
  derivative_fused.assign(program.widths.size(), 0);
  for (const Operation& op : ops) {
    char needed = value_needed[op.input];
    if (op.weights >= 0) needed |= trainable[op.weights];
    if (op.bias >= 0) needed |= trainable[op.bias];
    for (int p : op.parameters) needed |= trainable[p];
    value_needed[op.output] = needed;
  }
  // A value that the output does not depend on has no gradient.
  std::vector<char> reaches(program.widths.size(), 0);
  reaches[program.output] = 1;
  for (std::size_t i = ops.size(); i-- > 0;) reaches[ops[i].input] |= reaches[ops[i].output];
  for (std::size_t v = 0; v < reaches.size(); ++v) value_needed[v] &= reaches[v];
  for (const Operation& op : ops) {
    const int made = program.producer(op.input);
    derivative_fused[op.input] = op.kind == OperationKind::dense && made >= 0 && op.input != program.output &&
                                 ops[made].kind == OperationKind::dense && ops[made].activation != Activation::linear &&
                                 program.consumers(op.input) == 1;
  }
  std::vector<char> begun(program.widths.size(), 0);
  begun[program.output] = 1;  // by the loss
  order(program, 0, static_cast<int>(ops.size()), begun);
}

void BackwardPlan::order(const Program& program, int first, int last, const std::vector<char>& begun) {
  const auto& ops = program.operations;
  accumulate.assign(ops.size(), 0);
  for (int i = last - 1; i >= first; --i) {
    bool earlier = begun[ops[i].input];
    for (int j = i + 1; j < last; ++j) earlier |= ops[j].input == ops[i].input && value_needed[ops[j].output];
    accumulate[i] = earlier;
  }
}

}  // namespace fp
