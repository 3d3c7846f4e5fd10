// Weight gradients by blocks of rows: with small weights and many rows each thread sums whole blocks of its own rows
// for all weights, so that threads read each other's block sums instead of each other's rows.
#include <algorithm>
#include <cstring>

#include "network/run.hpp"

namespace fp {

template <class T>
void Run<T>::backward_blocks(Team& team, int first, int last, const BackwardPlan& pass) {
  for (int i = first; i < last; ++i) {
    const Operation& op = program.operations[i];
    if (!pass.active[i] || op.kind != OperationKind::dense) continue;
    reads_value(op.input(), own_rows());
    reads_gradient(op.output, own_rows());
  }
  hazards->writes(space.things.common(Things::block_sums, turn), own_rows());
  hazards->settle(team);
  const Range mine = rows_of(team);
  for (int64_t r = mine.begin; r < mine.end; r += kRowBlock) {
    const Range rows{r, std::min(r + kRowBlock, mine.end)};
    T* sums = block_sums(r / kRowBlock);
    for (int i = last - 1; i >= first; --i) {
      const Operation& op = program.operations[i];
      if (!pass.active[i] || op.kind != OperationKind::dense) continue;
      const View dz = gradient(op.output);
      ops::Rows<T> x = operand(op.input(), r);
      x.rows = rows.size();
      const bool bias = op.bias >= 0 && plan.trainable[op.bias];
      T* const db = bias ? sums + instance->slice(op.bias).offset : nullptr;
      if (plan.trainable[op.weights]) {
        const auto& s = instance->slice(op.weights);
        instance->each_share(op.weights, {0, s.cols}, [&](Range cols, Range share, int64_t origin) {
          const int64_t width = s.cols_in(share);
          ops::dense_backward_weights<T>(kernels, x,
                                         {dz.data + r * dz.row + share.begin, rows.size(), width, dz.row, true},
                                         {sums + origin, s.rows, width, share.size(), s.padded()}, false, Epilogue<T>{},
                                         {0, s.rows}, {cols.begin - share.begin, cols.end - share.begin},
                                         space.thread_scratch(team.rank), s.part, bias ? db + cols.begin : nullptr);
        });
      } else if (bias) {
        kernels.column_sums(rows.size(), program.widths[op.output], dz.data + r * dz.row, dz.row, db, false, kRowBlock);
      }
    }
  }
}

template <class T>
void Run<T>::update_blocks(Team& team, const std::vector<Destination>& to) {
  const int64_t count = (n + kRowBlock - 1) / kRowBlock;
  const auto need_blocks = [&] {
    hazards->reads(space.things.common(Things::block_sums, turn), Region::all());
    hazards->settle(team);
  };
  if (way.copies) need_blocks();
  for (int p = 0; p < instance->count(); ++p) {
    if (to[p] != Destination::parameters) continue;
    const auto& s = instance->slice(p);
    // Whole rows with their pads, which stay zero.
    const bool is_vector = s.rows == 1;
    Region part = Region::all();
    if (!way.copies) {
      part = is_vector ? part_of(s) : Region{Cut(team.size, 1, kernels.tile_rows), {}};
      hazards->writes(space.things.parameter(p), part);
      need_blocks();
    }
    const Range rows = part.rows.of(team.rank, s.rows);
    const Range cols = is_vector ? part.cols.of(team.rank, s.row) : Range{0, s.row};
    if (rows.size() <= 0 || cols.size() <= 0) continue;
    instance->each_part(p, cols, [&](Range c, int64_t origin, int64_t row) {
      const int64_t at = origin + rows.begin * row + c.begin;
      const int64_t size = (rows.size() - 1) * row + c.size();
      T* sum = block_sums(0) + at;
      if (way.copies) {  // others read the blocks too
        sum = instance->gradients.data() + at;
        std::memcpy(sum, block_sums(0) + at, sizeof(T) * static_cast<std::size_t>(size));
      }
      for (int64_t b = 1; b < count; ++b) kernels.add(size, block_sums(b) + at, sum);
      optimize(p, at, size, sum);
    });
    const Range used{cols.begin, std::min(cols.end, s.cols)};
    if (used.size() > 0) renew_copies(p, rows, used);
  }
}

template void Run<float>::backward_blocks(Team&, int, int, const BackwardPlan&);
template void Run<double>::backward_blocks(Team&, int, int, const BackwardPlan&);
template void Run<float>::update_blocks(Team&, const std::vector<Destination>&);
template void Run<double>::update_blocks(Team&, const std::vector<Destination>&);

}  // namespace fp
