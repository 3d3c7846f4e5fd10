// A plan: how a program is run. What the caller chose (threads, what is frozen, learning-rate multipliers) and what
// follows from that: which gradients are computed, which are begun and which added to, which derivatives and updates
// are epilogues of products. Rebuilt freely; knows no numbers. The batch's memory is the workspace's.
#pragma once

#include <vector>

#include "network/program.hpp"

namespace fp {

// What becomes of a parameter's gradient.
enum class Destination : char { nowhere, gradients, parameters };

// What one pass from certain values' gradients downwards computes, and where it adds.
struct BackwardPlan {
  std::vector<char> active;                   // per operation: a gradient arrives at its output and is wanted
  std::vector<std::vector<char>> accumulate;  // per operation and input: that gradient was begun before
  // The parameter's gradient was begun by a later operation. Uses of one parameter are cut alike, so that each part of
  // its gradient belongs to one thread; but for those of a bias that are joined to its weights and those that are not,
  // between which threads wait.
  std::vector<char> accumulate_weights, accumulate_bias;
};

// What each value's memory is in inference: dropout passes its input on.
std::vector<int> inference_values(const Program& program);

struct Plan {
  // Chosen.
  int threads = 0;  // 0: as many as set for all
  std::vector<char> trainable;
  std::vector<double> rates;  // of each parameter, times the optimizer's learning rate

  std::vector<int> inference;  // inference_values
  // The gradient of this value leads to something trainable.
  std::vector<char> wanted;
  // The consumer's product multiplies by the activation's derivative of the dense operation that made the value.
  std::vector<char> derivative_fused;
  // Per operation: the weights' product may make the bias gradient along the way. Which thread then has it follows from
  // the weights, so that all uses of the bias must be with the same.
  std::vector<char> bias_joined;
  std::vector<int> producer;  // of each value, -1 for the input
  // Whether inputs, and columns of them, are operands of dense products and nothing else; how many columns these have.
  bool inputs_multiplied = false;
  int64_t input_products = 0;
  BackwardPlan backward;

  // For operations [first, last), given the values whose gradient exists already.
  BackwardPlan order(const Program& program, int first, int last, const std::vector<char>& begun) const;
  // From `trainable`; `begun` as in order(), for the whole program.
  void build(const Program& program, const std::vector<char>& begun);
};

// What a whole step does with each parameter's gradient.
struct UpdatePlan {
  std::vector<Destination> to;
  std::vector<char> apart;    // updated after the backward pass, from the gradients
  std::vector<char> without;  // no loss reaches it: its gradient is zero
  bool any_apart = false;

  // fuse: updates may be epilogues of the weight gradients' products, where a parameter is used once.
  UpdatePlan(const Program& program, const Plan& plan, bool fuse);
};

}  // namespace fp
