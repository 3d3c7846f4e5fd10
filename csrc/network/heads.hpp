// Heads: what a network's outputs are judged by. A head has an output, targets and sample weights of its own, a loss or
// none (it may come from Python), and metrics. cost = sum over heads of weight * sum_i(w_i loss_i) / normaliser.
#pragma once

#include <optional>

#include "kernels/table.hpp"
#include "network/row_source.hpp"

namespace fp {

enum class Normaliser {
  rows,     // of the batch
  weights,  // the sum of the batch's sample weights
};

struct Head {
  int output = 0;  // place in Program::outputs
  std::optional<Loss> loss;
  double parameter = 0;
  double weight = 1;
  Normaliser normaliser = Normaliser::rows;
  double sums[2] = {0, 0};  // logs: of the weighted losses, and of the normalisers
};

// Where a head's targets and sample weights come from.
struct Targets {
  const RowSource* y = nullptr;        // labels or a matrix, as loss and metrics read them
  const RowSource* weights = nullptr;  // one column, or nullptr
  bool labels = false;
  int64_t classes = 0;  // labels lie in [0, classes)
};

}  // namespace fp
