#include "network/plan.hpp"

#include <cstddef>
#include <utility>

namespace fp {

std::vector<int> inference_values(const Program& program) {
  std::vector<int> is(program.widths.size());
  for (std::size_t v = 0; v < is.size(); ++v) is[v] = static_cast<int>(v);
  for (const Operation& op : program.operations)
    if (op.kind == OperationKind::dropout) is[op.output] = is[op.input()];
  return is;
}

void Plan::build(const Program& program, const std::vector<char>& begun) {
  const auto& ops = program.operations;
  const std::size_t values = program.widths.size();
  producer.assign(values, -1);
  inference = inference_values(program);
  wanted.assign(values, 0);
  for (std::size_t i = 0; i < ops.size(); ++i) {
    const Operation& op = ops[i];
    producer[op.output] = static_cast<int>(i);
    char needed = 0;
    for (int v : op.inputs) needed |= wanted[v];
    if (op.weights >= 0) needed |= trainable[op.weights];
    if (op.bias >= 0) needed |= trainable[op.bias];
    for (int p : op.parameters) needed |= trainable[p];
    wanted[op.output] = needed;
  }
  std::vector<char> is_input(values, 0);  // or columns of it
  is_input[0] = 1;
  inputs_multiplied = true;
  input_products = 0;
  for (const Operation& op : ops)
    for (int v : op.inputs) {
      if (!is_input[v]) continue;
      if (op.kind == OperationKind::columns)
        is_input[op.output] = 1;
      else if (op.kind == OperationKind::dense)
        input_products += program.widths[op.output];
      else
        inputs_multiplied = false;
    }
  for (int v : program.outputs) inputs_multiplied &= !is_input[v];
  derivative_fused.assign(values, 0);
  for (const Operation& op : ops) {
    if (op.kind != OperationKind::dense) continue;
    const int v = op.input(), made = producer[v];
    if (made < 0 || ops[made].kind != OperationKind::dense || ops[made].activation == Activation::linear) continue;
    bool is_output = false;  // whose gradient a loss begins
    for (int out : program.outputs) is_output |= out == v;
    derivative_fused[v] = !is_output && program.consumers(v) == 1;
  }
  constexpr int kUnused = -1, kSeveral = -2;
  std::vector<int> partner(program.parameters.size(), kUnused);  // of a bias: the weights that it is used with
  for (const Operation& op : ops) {
    if (op.bias < 0) continue;
    int& weights = partner[op.bias];
    weights = weights == kUnused || weights == op.weights ? op.weights : kSeveral;
  }
  bias_joined.assign(ops.size(), 0);
  for (std::size_t i = 0; i < ops.size(); ++i)
    bias_joined[i] = ops[i].bias >= 0 && partner[ops[i].bias] == ops[i].weights;
  backward = order(program, 0, static_cast<int>(ops.size()), begun);
}

BackwardPlan Plan::order(const Program& program, int first, int last, const std::vector<char>& begun) const {
  const auto& ops = program.operations;
  BackwardPlan plan;
  plan.active.assign(ops.size(), 0);
  plan.accumulate.resize(ops.size());
  plan.accumulate_weights.assign(ops.size(), 0);
  plan.accumulate_bias.assign(ops.size(), 0);
  std::vector<char> exists = begun, weights(program.parameters.size(), 0), biases = weights;
  for (int i = last - 1; i >= first; --i) {
    const Operation& op = ops[i];
    plan.accumulate[i].assign(op.inputs.size(), 0);
    plan.active[i] = wanted[op.output] && exists[op.output];
    if (!plan.active[i]) continue;
    if (op.weights >= 0) plan.accumulate_weights[i] = std::exchange(weights[op.weights], 1);
    if (op.bias >= 0) plan.accumulate_bias[i] = std::exchange(biases[op.bias], 1);
    for (std::size_t k = 0; k < op.inputs.size(); ++k) {
      const int v = op.inputs[k];
      plan.accumulate[i][k] = exists[v];
      exists[v] |= wanted[v];
    }
  }
  return plan;
}

UpdatePlan::UpdatePlan(const Program& program, const Plan& plan, bool fuse) {
  const auto& ops = program.operations;
  std::vector<char> reached(program.parameters.size(), 0);
  std::vector<int> uses(program.parameters.size(), 0);
  for (std::size_t i = 0; i < ops.size(); ++i)
    for (int p : {ops[i].weights, ops[i].bias}) {
      if (p < 0) continue;
      ++uses[p];
      reached[p] |= plan.backward.active[i];
    }
  for (std::size_t p = 0; p < program.parameters.size(); ++p) {
    const bool trained = plan.trainable[p] != 0;
    const bool fused = fuse && trained && reached[p] && uses[p] == 1;
    to.push_back(fused ? Destination::parameters : trained ? Destination::gradients : Destination::nowhere);
    apart.push_back(trained && !fused);
    without.push_back(trained && !reached[p]);
    any_apart |= apart.back() != 0;
  }
}

}  // namespace fp
