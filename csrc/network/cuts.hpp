// How the members of a team share an operation, and the pieces in which each does its part, so that a stop is noticed
// soon. Included by the files that define Run.
#pragma once

#include <algorithm>
#include <cmath>

#include "network/run.hpp"
#include "network/worth.hpp"

namespace fp {

// As kFlopPerPiece, for elementwise work, in elements; and what an element's epilogue counts for in a product: more
// than its arithmetic, since the first write to a page may wait for the system to clear it.
inline constexpr int64_t kElementsPerSlab = int64_t(1) << 19;
inline constexpr double kFlopPerEpilogue = 1600;
// Operand elements of a piece.
inline constexpr double kElementsPerPiece = 4e6;
// Rows that are enough to share packed weights.
inline constexpr int64_t kRowsPerPiece = 2048;

// A team's cut of a rows x cols output: the factors of its size with the least operand data per thread.
inline Region grid(int size, int64_t rows, int64_t cols, int64_t row_grain, int64_t col_grain) {
  int across = 1;
  double best = 0;
  for (int c = 1; c <= size; ++c) {
    if (size % c) continue;
    const int r = size / c;
    const double tall = static_cast<double>(std::max(row_grain, (rows + r - 1) / r));
    const double wide = static_cast<double>(std::max(col_grain, (cols + c - 1) / c));
    // The slowest thread's output counts first, then what it reads.
    const double cost = tall * wide * 64 + (tall + wide);
    if (c == 1 || cost < best) {
      best = cost;
      across = c;
    }
  }
  return {Cut(size / across, across, row_grain), Cut(across, 1, col_grain)};
}

template <class T>
template <class F>
void Run<T>::pieces(Team& team, Range rows, Range cols, int64_t depth, bool may_stop, F&& f) {
  if (rows.size() <= 0 || cols.size() <= 0) return;
  // Columns are cut before rows, which share the packed weights.
  const double speed = products() ? static_cast<double>(products()->speed) : 1;
  const double per_output = 2.0 * static_cast<double>(std::max<int64_t>(depth, 1)) + kFlopPerEpilogue * speed;
  const double piece = kFlopPerPiece * static_cast<double>(kernels.lanes) * speed;
  if (per_output * static_cast<double>(rows.size()) * static_cast<double>(cols.size()) < piece / 64) {
    if (!may_stop || !interrupt.stopped()) f(rows, cols);
    return;  // too small to ask the clock
  }
  const double outputs = std::min(piece / per_output, 1e15);
  const int64_t wide =
      std::max<int64_t>(192, static_cast<int64_t>(outputs) / std::min(rows.size(), kRowsPerPiece) / 192 * 192);
  // Long sums of few outputs are bound by what they read.
  const double most_read = kElementsPerPiece / static_cast<double>(std::max<int64_t>(depth, 1));
  const double high = std::min(most_read, outputs / static_cast<double>(std::min(wide, cols.size())));
  // Each piece packs what its rows are multiplied by: rather one half as high again than two.
  const int64_t count = std::max<int64_t>(1, std::llround(static_cast<double>(rows.size()) / high));
  const int64_t tall = ((rows.size() + count - 1) / count + 95) / 96 * 96;
  for (int64_t c = cols.begin; c < cols.end; c += wide)
    for (int64_t r = rows.begin; r < rows.end; r += tall) {
      if (may_stop && interrupt.stopped()) return;
      f(Range{r, std::min(r + tall, rows.end)}, Range{c, std::min(c + wide, cols.end)});
      interrupt.check(team);
    }
}

template <class T>
template <class F>
void Run<T>::work_on(Team& team, const Work& work, bool may_stop, F&& f) {
  if (!helping) return pieces(team, work.rows_of(team.rank), work.cols_of(team.rank), work.depth, may_stop, f);
  Claims& claims = space.claims[offers % 2];
  for (;;) {
    const auto [range, of] = claims.next(team.rank, team.size);
    if (range.size() <= 0) return;
    pieces(team, work.gives_rows ? range : work.rows_of(of), work.gives_rows ? work.cols_of(of) : range, work.depth,
           may_stop, f);
  }
}

template <class T>
template <class F>
void Run<T>::slabs(Team& team, Range range, int64_t width, bool may_stop, F&& f) {
  const int64_t most = std::max<int64_t>(16, kElementsPerSlab / std::max<int64_t>(width, 1) / 16 * 16);
  if (range.size() <= most) {
    if (range.size() > 0) f(range);
    return;
  }
  for (int64_t at = range.begin; at < range.end && !(may_stop && interrupt.stopped()); at += most) {
    f(Range{at, std::min(at + most, range.end)});
    interrupt.check(team);
  }
}

}  // namespace fp
