// What network/mixed.hpp keeps packed alone: values and gradients that one dense operation reads, and nothing else.
#include "network/mixed.hpp"

#include "bf16_test.hpp"
#include "checks.hpp"

namespace {

using checks::fail;
using fp::Activation;
using fp::OperationKind;
using fp::PackedBatch;
using fp::Program;

struct Grown {
  Program program;
  explicit Grown(int64_t width) { program.widths.push_back(width); }
  int add(OperationKind kind, std::vector<int> inputs, int64_t width, Activation activation = Activation::linear) {
    fp::Operation op{};
    op.kind = kind;
    op.inputs = std::move(inputs);
    op.output = static_cast<int>(program.widths.size());
    op.activation = activation;
    if (kind == OperationKind::dense) {
      op.weights = static_cast<int>(program.parameters.size());
      program.parameters.push_back({program.widths[op.input()], width});
    }
    program.widths.push_back(width);
    program.operations.push_back(op);
    return op.output;
  }
  int dense(int x, int64_t width, Activation a = Activation::linear) {
    return add(OperationKind::dense, {x}, width, a);
  }
};

void expect(const char* what, bool got, bool wanted) {
  if (got != wanted) fail("mixed: %s: expected %d, received %d", what, wanted, got);
}

}  // namespace

void test_mixed(const fp::Products16& products) {
  for (bool in_turn : {false, true}) {
    for (bool training : {false, true}) {
      Grown g(20);
      const int relu = g.dense(0, 33, Activation::relu), tanh = g.dense(relu, 40, Activation::tanh),
                gelu = g.dense(tanh, 50, Activation::gelu), out = g.dense(gelu, 7);
      g.program.outputs = {out};
      PackedBatch batch;
      batch.make(products, g.program, 100, 2, training, in_turn);
      const bool k = products.keeps;
      expect("input", batch.keeps_value(0), k);
      expect("relu", batch.keeps_value(relu), k);
      expect("tanh, whose derivative reads it", batch.keeps_value(tanh), k && !training);
      expect("gelu", batch.keeps_value(gelu), k);
      expect("output", batch.keeps_value(out), false);
      expect("gradient of the input", batch.keeps_gradient(0), false);
      for (int v : {relu, tanh, gelu}) expect("gradient", batch.keeps_gradient(v), k && training);
      expect("gradient of the output", batch.keeps_gradient(out), false);
      if (!k || !training) continue;
      expect("gradients in turn", batch.gradient_right(relu) == batch.gradient_right(gelu), in_turn);
      expect("neighbours share", batch.gradient_right(relu) == batch.gradient_right(tanh), false);
    }
  }
  Grown g(20);
  const int twice = g.dense(0, 33, Activation::relu), left = g.dense(twice, 40), right = g.dense(twice, 40),
            sum = g.add(OperationKind::add, {left, right}, 40), dropped = g.add(OperationKind::dropout, {sum}, 40),
            last = g.dense(g.dense(dropped, 30), 5);
  g.program.outputs = {last, left};
  PackedBatch batch;
  batch.make(products, g.program, 100, 2, true, false);
  for (int v : {twice, left, right, sum, dropped, last}) {
    expect("a value that others read", batch.keeps_value(v), false);
    expect("its gradient", batch.keeps_gradient(v), false);
  }
  expect("between two", batch.keeps_gradient(last - 1), products.keeps);
  Grown c(20);
  const int part = c.add(OperationKind::columns, {0}, 10);
  c.program.outputs = {c.dense(part, 5)};
  PackedBatch view;
  view.make(products, c.program, 100, 2, true, false);
  expect("an input that is read by columns", view.keeps_value(0), false);
  expect("columns", view.keeps_value(part), false);
}
