// Matrices whose columns lie in parts, one after the other: large weights, in the order in which products read them.
#pragma once

#include <algorithm>
#include <cstdint>

#include "runtime/parallel.hpp"

namespace fp {

// Large weights are stored in parts of so many columns: whole panels of the product for every instruction set. Those of
// mixed precision, which products only write, in twice as many, whole panels of its products as well.
inline constexpr int64_t kPartColumns = 48, kMixedPartColumns = 2 * kPartColumns;
// What counts as large: it leaves the inner caches, and parts are long enough to be worth a product each.
inline constexpr int64_t kPartedBytes = 512 * 1024, kPartedRows = 64;

// `row` columns with pads, in parts of `part` (the last one may be narrower).
struct Parted {
  int64_t rows, row, part;

  // Parts of at most `most` columns, where the matrix is large.
  static Parted large(int64_t rows, int64_t row, int64_t bytes, int64_t most) {
    return {rows, row, rows >= kPartedRows && rows * row * bytes >= kPartedBytes ? std::min(row, most) : row};
  }
  bool is_whole() const { return part == row; }
  // Calls f(columns, origin, stride) for each part that has some of these columns: element (i, j) lies at
  // origin + i * stride + j.
  template <class F>
  void each(Range some, F&& f) const {
    if (some.size() <= 0) return;
    for (int64_t begin = some.begin / part * part; begin < some.end; begin += part) {
      const int64_t stride = std::min(part, row - begin);
      f(Range{std::max(begin, some.begin), std::min(begin + stride, some.end)}, (rows - 1) * begin, stride);
    }
  }
};

}  // namespace fp
