// How a team cuts a run's work. The bits are the same in every way.
#pragma once

#include <cstdint>

#include "kernels/bf16.hpp"
#include "network/program.hpp"

namespace fp {

// Rows of the batch are cut in `down` shares, columns of what dense products make in `across`. With across == 1 each
// thread takes its rows through all operations and needs the others only for the weights' gradients. With more, a
// thread computes its own columns of each layer, for which it needs all columns of the layer before, but keeps its
// own columns of the weights: threads whose caches lie far apart then have less to tell each other.
struct Way {
  int down = 1, across = 1;
  bool blocks = false;  // weight gradients by blocks of a thread's own rows: see Run::backward_blocks
  bool copies = false;  // every thread has weights of its own, and updates them all
  int size() const { return down * across; }

  // Columns enough that each of `across` threads fills some registers.
  static bool is_wide(int64_t width, int across, int64_t line) { return width >= 2 * line * across; }

  // The way of least cost for a batch of n rows. products: of mixed precision, or nullptr.
  static Way best(const Program& program, int64_t n, int size, bool training, int64_t line, int64_t row_grain,
                  const Products16* products);
};

}  // namespace fp
