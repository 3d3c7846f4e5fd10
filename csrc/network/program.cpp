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
      throw std::invalid_argument("program: expected widths from 1 and below 2**40, received " + std::to_string(w));
  for (const auto* arrays : {&parameters, &states})
    for (const Parameter& p : *arrays)
      if (p.rows < 0 || p.cols < 0 || p.rows >= most || p.cols >= most || (p.rows > 0 && p.cols > most / p.rows))
        throw std::invalid_argument("program: a parameter of " + std::to_string(p.rows) + " x " +
                                    std::to_string(p.cols) + " elements is too large");
  std::vector<char> defined(widths.size(), 0);
  defined[0] = 1;
  for (std::size_t i = 0; i < operations.size(); ++i) {
    const Operation& op = operations[i];
    if (op.inputs.empty()) fail(i, "expected at least one input");
    for (int v : op.inputs)
      if (v < 0 || v >= values || !defined[v]) fail(i, "its input is not computed before it");
    const bool joins = op.kind == OperationKind::add || op.kind == OperationKind::multiply ||
                       op.kind == OperationKind::concatenate || op.kind == OperationKind::python;
    if (!joins && op.inputs.size() != 1) fail(i, "expected one input, received " + std::to_string(op.inputs.size()));
    if (op.output <= 0 || op.output >= values || defined[op.output]) fail(i, "its output is not a new value");
    defined[op.output] = 1;
    const int64_t in = widths[op.input()], out = widths[op.output];
    const int activation = static_cast<int>(op.activation);
    if (activation < 0 || activation >= kActivations) fail(i, "unknown activation");
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
      case OperationKind::add:
      case OperationKind::multiply:
        for (int v : op.inputs)
          if (widths[v] != out)
            fail(i, "expected inputs of width " + std::to_string(out) + ", as its output, received " +
                        std::to_string(widths[v]));
        break;
      case OperationKind::concatenate: {
        int64_t sum = 0;
        for (int v : op.inputs) sum += widths[v];
        if (sum != out)
          fail(i, "expected an output of width " + std::to_string(sum) + ", the sum of its inputs', received " +
                      std::to_string(out));
        break;
      }
      case OperationKind::columns:
        if (op.input() != 0) fail(i, "expected value 0, the input");
        if (op.begin < 0 || op.begin > in - out)
          fail(i, "expected columns within the " + std::to_string(in) + " of the input, received " +
                      std::to_string(op.begin) + " to " + std::to_string(op.begin + out));
        break;
      case OperationKind::python:
        for (int p : op.parameters)
          if (p < 0 || p >= params) fail(i, "expected parameter numbers below " + std::to_string(params));
        break;
    }
  }
  if (outputs.empty()) throw std::invalid_argument("program: expected at least one output");
  for (int v : outputs)
    if (v < 0 || v >= values || !defined[v]) throw std::invalid_argument("program: the output is not a computed value");
}

bool Program::is_native() const {
  return std::none_of(operations.begin(), operations.end(),
                      [](const Operation& op) { return op.kind == OperationKind::python; });
}

bool Program::is_chain() const {
  int value = 0;
  for (const Operation& op : operations) {
    if (op.inputs.size() != 1 || op.input() != value) return false;
    value = op.output;
  }
  return std::all_of(outputs.begin(), outputs.end(), [value](int v) { return v == value; });
}

std::vector<int> Program::inputs() const {
  std::vector<int> found;
  int64_t end = 0;
  bool whole = std::find(outputs.begin(), outputs.end(), 0) != outputs.end();
  for (const Operation& op : operations) {
    if (op.kind != OperationKind::columns) {
      whole |= std::find(op.inputs.begin(), op.inputs.end(), 0) != op.inputs.end();
      continue;
    }
    if (op.begin != end) return {};
    end += widths[op.output];
    found.push_back(op.output);
  }
  if (found.empty()) return {0};
  return whole || end != widths[0] ? std::vector<int>{} : found;
}

int Program::consumers(int value) const {
  int n = 0;
  for (const Operation& op : operations) n += static_cast<int>(std::count(op.inputs.begin(), op.inputs.end(), value));
  return n;
}

int Program::producer(int value) const {
  for (std::size_t i = 0; i < operations.size(); ++i)
    if (operations[i].output == value) return static_cast<int>(i);
  return -1;
}

}  // namespace fp
