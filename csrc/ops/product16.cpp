#include "kernels/bf16.hpp"
#include "ops/whole.hpp"
#include "runtime/dispatch.hpp"
#include "runtime/memory.hpp"

namespace fp::whole {

void bfloat16_product(Matrix<const float> a, bool transpose_a, Matrix<const float> b, bool transpose_b,
                      Matrix<float> c) {
  struct Call {
    const Products16& p;
    Pack16 left, right;
    Product16 g;
    bool transpose_b;
  };
  const Products16& p = products16();
  const int64_t m = c.rows, n = c.cols, k = transpose_a ? a.rows : a.cols;
  Buffer<char> left(transpose_a ? p.left_transposed_bytes(m, k) : p.left_bytes(m, k)), right(p.right_bytes(k, n));
  Buffer<float> scratch(p.scratch(m, n, k));
  Call call{p,
            {a.data, a.row, a.rows, a.cols, 0, a.rows, 0, a.cols, left.data()},
            {b.data, b.row, b.rows, b.cols, 0, b.rows, 0, b.cols, right.data()},
            {},
            transpose_b};
  Product16& g = call.g;
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
  parallel_run(
      1,
      [](Team&, void* context) {
        Call& c = *static_cast<Call*>(context);
        (c.g.transposed ? c.p.pack_left_transposed : c.p.pack_left)(c.left);
        (c.transpose_b ? c.p.pack_right_transposed : c.p.pack_right)(c.right);
        c.p.product(c.g);
      },
      &call);
}

}  // namespace fp::whole
