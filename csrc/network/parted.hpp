// Large weights are stored in parts, in the order in which products read them (Parted, in kernels/table.hpp).
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/table.hpp"
#include "runtime/parallel.hpp"

namespace fp {

// Of so many columns: whole panels of the product for every instruction set. Those of mixed precision, which products
// only write, are twice as wide: whole panels of its products as well.
inline constexpr int64_t kPartColumns = 48, kMixedPartColumns = 2 * kPartColumns;
// What counts as large: it leaves the inner caches, and parts are long enough to be worth a product each.
inline constexpr int64_t kPartedBytes = 512 * 1024, kPartedRows = 64;

// A matrix in parts of at most `most` columns if it is large, otherwise in one. bytes: of an element.
inline Parted parted_if_large(int64_t rows, int64_t row, int64_t bytes, int64_t most) {
  return {rows, row, rows >= kPartedRows && rows * row * bytes >= kPartedBytes ? std::min(row, most) : row};
}

// Calls f(columns, origin, stride) for each part that has some of these columns.
template <class F>
void each_part(const Parted& m, Range some, F&& f) {
  if (some.size() <= 0) return;
  for (int64_t b = m.begin(some.begin); b < some.end; b += m.part) {
    const int64_t stride = m.stride(b);
    f(Range{std::max(b, some.begin), std::min(b + stride, some.end)}, m.origin(b), stride);
  }
}

}  // namespace fp
