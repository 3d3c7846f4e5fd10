// Weight gradients by blocks of rows: with small weights and many rows each thread sums whole blocks of its own rows
// for all weights, so that threads read each other's block sums instead of each other's rows.
#include <algorithm>

#include "network/run.hpp"

namespace fp {

template <class T>
void Run<T>::backward_blocks(Team& team, int first, int last, const BackwardPlan& pass) {
  const Range mine = rows_of(team);
  for (int64_t r = mine.begin; r < mine.end; r += kRowBlock) {
    const Range rows{r, std::min(r + kRowBlock, mine.end)};
    T* sums = space.block_sums.data() + r / kRowBlock * space.block_size;
    for (int i = last - 1; i >= first; --i) {
      const Operation& op = program.operations[i];
      if (!pass.active[i] || op.kind != OperationKind::dense) continue;
      const View x = value(op.input()), dz = gradient(op.output);
      if (plan.trainable[op.weights]) {
        const auto& s = instance.slice(op.weights);
        ops::dense_backward_weights<T>(kernels, {x.data + r * x.row, rows.size(), s.rows, x.row},
                                       {dz.data + r * dz.row, rows.size(), s.cols, dz.row},
                                       {sums + s.offset, s.rows, s.cols, s.row}, false, Epilogue<T>{}, {0, s.rows},
                                       {0, s.cols}, space.thread_scratch(team.rank));
      }
      if (op.bias >= 0 && plan.trainable[op.bias])
        kernels.column_sums(rows.size(), program.widths[op.output], dz.data + r * dz.row, dz.row,
                            sums + instance.slice(op.bias).offset, false);
    }
  }
}

template <class T>
void Run<T>::update_blocks(Team& team, const std::vector<Destination>& to) {
  const Sgd& sgd = instance.sgd;
  const int64_t blocks = (n + kRowBlock - 1) / kRowBlock;
  for (int p = 0; p < instance.count(); ++p) {
    if (to[p] != Destination::parameters) continue;
    const auto& s = instance.slice(p);
    // Whole rows with their pads, which stay zero.
    const Range rows = s.rows > 1 ? split(s.rows, team.rank, team.size, kernels.tile_rows) : Range{0, s.rows};
    const Range within = s.rows > 1 ? Range{0, rows.size() * s.row} : split(s.row, team.rank, team.size, kLine<T>);
    if (within.size() <= 0) continue;
    const int64_t at = rows.begin * s.row + within.begin;
    T* sum = space.block_sums.data() + s.offset + at;
    for (int64_t b = 1; b < blocks; ++b) kernels.add(within.size(), sum + b * space.block_size, sum);
    T* velocity = instance.velocity(p);
    kernels.sgd_update(within.size(), instance.at(instance.parameters, p) + at, sum, velocity ? velocity + at : nullptr,
                       learning_rate(p), static_cast<T>(sgd.momentum), sgd.nesterov);
    if (instance.has_transposed(p)) instance.transpose_part(kernels, p, rows, {0, s.cols});
  }
}

template void Run<float>::backward_blocks(Team&, int, int, const BackwardPlan&);
template void Run<double>::backward_blocks(Team&, int, int, const BackwardPlan&);
template void Run<float>::update_blocks(Team&, const std::vector<Destination>&);
template void Run<double>::update_blocks(Team&, const std::vector<Destination>&);

}  // namespace fp
