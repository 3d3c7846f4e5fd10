#include <algorithm>

#include "ops/share.hpp"
#include "ops/whole.hpp"
#include "runtime/dispatch.hpp"
#include "runtime/memory.hpp"

namespace fp::whole {
namespace {

// Multiply-adds one thread should have before another is worth waking (some 20 us).
constexpr double kLeastProduct = 1e6;
// The same for the elements of a sum of rows, which only moves memory.
constexpr double kLeastSummed = 128e3;

struct Part {
  Range rows, cols;
};

// An (m, n) output cut into rectangles. The cut is made for the team asked for; a smaller one does several each.
template <class T>
struct Grid {
  int64_t m, n, row_grain, col_grain;
  int rows = 1, cols = 1;

  // The grid whose largest rectangle is smallest; of equals the one with most parts down (or across, if wide).
  Grid(const Kernels<T>& kernels, int64_t m, int64_t n, int threads, bool wide)
      : m(m), n(n), row_grain(kernels.tile_rows), col_grain(4 * kernels.lanes) {
    int64_t row_tiles = (m + row_grain - 1) / row_grain, col_tiles = (n + col_grain - 1) / col_grain;
    int64_t best = INT64_MAX;
    for (int major = threads; major >= 1; --major) {
      int r = wide ? threads / major : major, c = wide ? major : threads / major;
      int64_t largest = ((row_tiles + r - 1) / r) * ((col_tiles + c - 1) / c);
      if (largest >= best) continue;
      best = largest;
      rows = r;
      cols = c;
    }
  }
  int64_t widest() const { return (n + col_grain - 1) / col_grain / cols * col_grain + col_grain; }

  template <class Fill>
  void each(const Team& team, const Fill& fill) const {
    for (int i = team.rank; i < rows * cols; i += team.size) {
      Part p{split(m, i / cols, rows, row_grain), split(n, i % cols, cols, col_grain)};
      if (p.rows.size() > 0 && p.cols.size() > 0) fill(p);
    }
  }
};

template <class T>
int threads_for_product(Matrix<T> out, int64_t k) {
  return threads_for(double(out.rows) * double(out.cols) * double(k), kLeastProduct);
}

// Scratch for every thread of a team, allocated before it starts.
template <class T>
class Scratch {
 public:
  Scratch(int threads, int64_t each) : each_((each + 15) / 16 * 16), buffer_(each_ * threads) {}
  T* of(const Team& team) { return each_ ? buffer_.data() + each_ * team.rank : nullptr; }

 private:
  int64_t each_;
  Buffer<T> buffer_;
};

}  // namespace

template <class T>
void dense_forward(Matrix<const T> x, Matrix<const T> w, const T* b, Activation activation, T alpha, Matrix<T> y) {
  const Kernels<T>& k = kernels<T>();
  int threads = threads_for_product(y, x.cols);
  Grid<T> grid(k, y.rows, y.cols, threads, false);
  Scratch<T> scratch(threads, k.gemm_scratch(y.rows, y.cols, x.cols));
  parallel_run(threads, [&](Team& team) {
    grid.each(team, [&](Part p) {
      ops::dense_forward<T>(k, x, w, b, activation, alpha, nullptr, 0, y, p.rows, p.cols, scratch.of(team));
    });
  });
}

template <class T>
void dense_backward_input(Matrix<const T> dz, Matrix<const T> w, Matrix<T> dx) {
  const Kernels<T>& k = kernels<T>();
  int threads = threads_for_product(dx, dz.cols);
  // Each part transposes the rows of w that it reads: cheaper than fetching them from another core's cache.
  Grid<T> grid(k, dx.rows, dx.cols, threads, true);
  // One line more than needed: rows a power of two apart would share the sets of the cache.
  int64_t wt_row = (std::min(grid.widest(), w.rows) + 15) / 16 * 16 + 16;
  Scratch<T> scratch(threads, k.gemm_scratch(dx.rows, dx.cols, dz.cols)), transposed(threads, wt_row * w.cols);
  parallel_run(threads, [&](Team& team) {
    grid.each(team, [&](Part p) {
      int64_t inputs = p.cols.size();
      T* wt = transposed.of(team);
      if (w.cols > 0) k.transpose(inputs, w.cols, w.data + p.cols.begin * w.row, w.row, wt, wt_row);
      Matrix<T> dx_part{dx.data + p.cols.begin, dx.rows, inputs, dx.row};
      ops::dense_backward_input<T>(k, dz, {wt, w.cols, inputs, wt_row}, nullptr, 0, Activation::linear, T(0), false,
                                   dx_part, p.rows, {0, inputs}, scratch.of(team));
    });
  });
}

template <class T>
void dense_backward_weights(Matrix<const T> x, Matrix<const T> dz, Matrix<T> dw) {
  const Kernels<T>& k = kernels<T>();
  int threads = threads_for_product(dw, x.rows);
  Grid<T> grid(k, dw.rows, dw.cols, threads, false);
  Scratch<T> scratch(threads, k.gemm_scratch(dw.rows, dw.cols, x.rows));
  parallel_run(threads, [&](Team& team) {
    grid.each(team, [&](Part p) {
      ops::dense_backward_weights<T>(k, x, dz, dw, false, Epilogue<T>{}, p.rows, p.cols, scratch.of(team), dw.row);
    });
  });
}

template <class T>
void dense_backward_bias(Matrix<const T> dz, T* db) {
  const Kernels<T>& k = kernels<T>();
  int threads = threads_for(double(dz.rows) * double(dz.cols), kLeastSummed);
  parallel_run(threads, [&](Team& team) {
    Range cols = split(dz.cols, team.rank, team.size, 4 * k.lanes);
    if (cols.size() > 0)
      k.column_sums(dz.rows, cols.size(), dz.data + cols.begin, dz.row, db + cols.begin, false, kRowBlock);
  });
}

template <class T>
bool leaves_out_zeros(Matrix<const T> a, bool transpose_a, int64_t columns) {
  GemmArgs<T> g{};
  g.m = transpose_a ? a.cols : a.rows;
  g.n = columns;
  g.k = transpose_a ? a.rows : a.cols;
  g.a = a.data;
  g.a_row = transpose_a ? 1 : a.row;
  g.a_col = transpose_a ? a.row : 1;
  bool found = false;
  parallel_run(1, [&](const Team&) { found = kernels<T>().leaves_out_zeros(g); });
  return found;
}

#define FP_INSTANTIATE(T)                                                                               \
  template void dense_forward<T>(Matrix<const T>, Matrix<const T>, const T*, Activation, T, Matrix<T>); \
  template void dense_backward_input<T>(Matrix<const T>, Matrix<const T>, Matrix<T>);                   \
  template void dense_backward_weights<T>(Matrix<const T>, Matrix<const T>, Matrix<T>);                 \
  template void dense_backward_bias<T>(Matrix<const T>, T*);                                            \
  template bool leaves_out_zeros<T>(Matrix<const T>, bool, int64_t);
FP_INSTANTIATE(float)
FP_INSTANTIATE(double)
#undef FP_INSTANTIATE

}  // namespace fp::whole
