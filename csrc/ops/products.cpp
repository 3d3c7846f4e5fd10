#include "ops/share.hpp"
#include "ops/whole.hpp"
#include "runtime/dispatch.hpp"
#include "runtime/memory.hpp"

namespace fp::whole {
namespace {

// Multiply-adds one thread should have before another is worth waking.
constexpr double kLeastProduct = 300e3;

struct Part {
  Range rows, cols;
};

// One thread's rectangle of an (m, n) output: the grid whose largest rectangle is smallest, rows first.
template <class T>
Part part_of(const Kernels<T>& kernels, int64_t m, int64_t n, const Team& team) {
  int64_t row_grain = kernels.tile_rows, col_grain = 4 * kernels.lanes;
  int64_t row_tiles = (m + row_grain - 1) / row_grain, col_tiles = (n + col_grain - 1) / col_grain;
  int best_rows = 1, best_cols = 1;
  int64_t best = INT64_MAX;
  for (int rows = team.size; rows >= 1; --rows) {
    int cols = team.size / rows;
    int64_t largest = ((row_tiles + rows - 1) / rows) * ((col_tiles + cols - 1) / cols);
    if (largest < best) {
      best = largest;
      best_rows = rows;
      best_cols = cols;
    }
  }
  if (team.rank >= best_rows * best_cols) return {{0, 0}, {0, 0}};
  return {split(m, team.rank / best_cols, best_rows, row_grain), split(n, team.rank % best_cols, best_cols, col_grain)};
}

// Scratch for every thread of a team, allocated before it starts.
template <class T>
class Scratch {
 public:
  Scratch(int threads, int64_t each) : each_((each + 15) / 16 * 16), buffer_(each_ * threads) {}
  T* of(const Team& team) const { return const_cast<T*>(buffer_.data()) + each_ * team.rank; }

 private:
  int64_t each_;
  Buffer<T> buffer_;
};

template <class Call>
void run(int threads, const Call& call) {
  parallel_run(
      threads, [](Team& team, void* context) { (*static_cast<const Call*>(context))(team); }, const_cast<Call*>(&call));
}

}  // namespace

template <class T>
void dense_forward(Matrix<const T> x, Matrix<const T> w, const T* b, Activation activation, T alpha, Matrix<T> y) {
  const Kernels<T>& k = kernels<T>();
  int threads = threads_for(double(y.rows) * double(y.cols) * double(x.cols), kLeastProduct);
  Scratch<T> scratch(threads, k.gemm_scratch(y.rows, y.cols, x.cols));
  run(threads, [&](Team& team) {
    Part p = part_of(k, y.rows, y.cols, team);
    ops::dense_forward<T>(k, x, w, b, activation, alpha, nullptr, 0, y, p.rows, p.cols, scratch.of(team));
  });
}

template <class T>
void dense_backward_input(Matrix<const T> dz, Matrix<const T> w, Matrix<T> dx) {
  const Kernels<T>& k = kernels<T>();
  int threads = threads_for(double(dx.rows) * double(dx.cols) * double(dz.cols), kLeastProduct);
  Scratch<T> scratch(threads, k.gemm_scratch(dx.rows, dx.cols, dz.cols));
  Buffer<T> transposed(w.rows * w.cols);
  Matrix<const T> wt{transposed.data(), w.cols, w.rows, w.rows};
  run(threads, [&](Team& team) {
    Range inputs = split(w.rows, team.rank, team.size, 16);
    if (inputs.size() > 0)
      k.transpose(inputs.size(), w.cols, w.data + inputs.begin * w.row, w.row, transposed.data() + inputs.begin,
                  wt.row);
    team.barrier();
    Part p = part_of(k, dx.rows, dx.cols, team);
    ops::dense_backward_input<T>(k, dz, wt, nullptr, 0, Activation::linear, T(0), false, dx, p.rows, p.cols,
                                 scratch.of(team));
  });
}

template <class T>
void dense_backward_weights(Matrix<const T> x, Matrix<const T> dz, Matrix<T> dw) {
  const Kernels<T>& k = kernels<T>();
  int threads = threads_for(double(dw.rows) * double(dw.cols) * double(x.rows), kLeastProduct);
  Scratch<T> scratch(threads, k.gemm_scratch(dw.rows, dw.cols, x.rows));
  run(threads, [&](Team& team) {
    Part p = part_of(k, dw.rows, dw.cols, team);
    ops::dense_backward_weights<T>(k, x, dz, dw, false, Epilogue<T>{}, p.rows, p.cols, scratch.of(team));
  });
}

template <class T>
void dense_backward_bias(Matrix<const T> dz, T* db) {
  const Kernels<T>& k = kernels<T>();
  int threads = threads_for(double(dz.rows) * double(dz.cols), kLeastProduct);
  run(threads, [&](Team& team) {
    Range cols = split(dz.cols, team.rank, team.size, 4 * k.lanes);
    if (cols.size() > 0) k.column_sums(dz.rows, cols.size(), dz.data + cols.begin, dz.row, db + cols.begin, false);
  });
}

#define FP_INSTANTIATE(T)                                                                               \
  template void dense_forward<T>(Matrix<const T>, Matrix<const T>, const T*, Activation, T, Matrix<T>); \
  template void dense_backward_input<T>(Matrix<const T>, Matrix<const T>, Matrix<T>);                   \
  template void dense_backward_weights<T>(Matrix<const T>, Matrix<const T>, Matrix<T>);                 \
  template void dense_backward_bias<T>(Matrix<const T>, T*);
FP_INSTANTIATE(float)
FP_INSTANTIATE(double)
#undef FP_INSTANTIATE

}  // namespace fp::whole
