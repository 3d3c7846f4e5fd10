// What work is worth: how much of it is done at a time. No bit depends on it.
#pragma once

#include <algorithm>
#include <cstdint>

#include "network/program.hpp"

namespace fp {

// What an elementwise operation counts for, per element, beside the arithmetic of products.
inline constexpr double kFlopPerElement = 16;
// Arithmetic per vector lane between two looks at whoever may want a run to stop: some ten milliseconds.
inline constexpr double kFlopPerPiece = 7.5e7;

// Arithmetic of a dense operation's product for one row, and of all of them for a batch.
inline double product_flop(const Program& program, const Operation& op) {
  return 2.0 * static_cast<double>(program.widths[op.input()]) * static_cast<double>(program.widths[op.output]);
}
inline double forward_flop(const Program& program, int64_t rows) {
  double each = 0;
  for (const Operation& op : program.operations)
    if (op.kind == OperationKind::dense) each += product_flop(program, op);
  return each * static_cast<double>(rows);
}

// Rows that a thread predicts at a time: their activations stay in the second-level cache, unless the layers are wide.
// widest: elements of a row.
inline int64_t rows_at_a_time(int64_t widest) { return std::clamp<int64_t>(65536 / widest, 512, 1024); }

}  // namespace fp
