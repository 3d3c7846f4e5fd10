#include "kernels/bf16.hpp"
#include "ops/whole.hpp"
#include "runtime/dispatch.hpp"
#include "runtime/memory.hpp"

namespace fp::whole {

void bfloat16_product(Matrix<const float> a, bool transpose_a, Matrix<const float> b, bool transpose_b,
                      Matrix<float> c) {
  const Products16& p = products16();
  const int64_t m = c.rows, n = c.cols, k = transpose_a ? a.rows : a.cols;
  Buffer<char> left(transpose_a ? p.left_transposed_bytes(m, k) : p.left_bytes(m, k)), right(p.right_bytes(k, n));
  Buffer<float> scratch(p.scratch(m, n, k));
  Product16 g{};
  g.m = g.left_rows = m;
  g.n = g.right_cols = n;
  g.k = k;
  g.left = left.data();
  g.transposed = transpose_a;
  g.right = right.data();
  g.c = c.data;
  g.c_row = c.row;
  g.scratch = scratch.data();
  // For the floating-point state; it serves examination, not speed.
  parallel_run(1, [&](Team&) {
    const auto pack_left = transpose_a ? p.pack_left_transposed : p.pack_left;
    const auto pack_right = transpose_b ? p.pack_right_transposed : p.pack_right;
    pack_left({a.data, a.row, a.rows, a.cols, 0, a.rows, 0, a.cols, left.data()});
    pack_right({b.data, b.row, b.rows, b.cols, 0, b.rows, 0, b.cols, right.data()});
    p.product(g);
  });
}

}  // namespace fp::whole
