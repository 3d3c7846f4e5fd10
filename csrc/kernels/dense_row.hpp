// One row through a small dense layer whose arrays are padded to whole registers: nothing but the chains of
// multiply-adds, which are the same as in gemm.hpp.
#pragma once

#include "kernels/activations.hpp"
#include "kernels/simd.hpp"
#include "kernels/table.hpp"

namespace fp::FP_ISA_NAMESPACE {

inline constexpr int kRowRegisters = 8;

// Columns [j, j + vectors * lanes) of the row.
template <class T, int vectors>
void dense_row_panel(const RowArgs<T>& r, int64_t j) {
  constexpr int lanes = Vec<T>::lanes;
  const T* w = r.w + j;
  int64_t p = 0;
  auto block = [&](Vec<T>(&acc)[vectors]) __attribute__((always_inline)) {
    FP_UNROLL for (int v = 0; v < vectors; ++v) acc[v] = zero<T>();
    for (const int64_t end = r.in - p < kBlock ? r.in : p + kBlock; p < end; ++p, w += r.w_row) {
      const Vec<T> x = broadcast(r.x[p]);
      FP_UNROLL for (int v = 0; v < vectors; ++v) acc[v] = fma(x, load(w + v * lanes), acc[v]);
    }
  };
  Vec<T> total[vectors];
  block(total);
  while (p < r.in) {
    Vec<T> acc[vectors];
    block(acc);
    FP_UNROLL for (int v = 0; v < vectors; ++v) total[v] = add(total[v], acc[v]);
  }
  if (r.b) {
    FP_UNROLL for (int v = 0; v < vectors; ++v) total[v] = add(total[v], load(r.b + j + v * lanes));
  }
  if (r.activation == Activation::relu) {
    FP_UNROLL for (int v = 0; v < vectors; ++v) total[v] =
        activation_forward_vector<Activation::relu>(total[v], r.alpha);
  }
  FP_UNROLL for (int v = 0; v < vectors; ++v) store(r.y + j + v * lanes, total[v]);
}

template <class T>
void dense_row(const RowArgs<T>& r) {
  constexpr int lanes = Vec<T>::lanes;
  using Panel = void (*)(const RowArgs<T>&, int64_t);
  static constexpr Panel panels[kRowRegisters] = {dense_row_panel<T, 1>, dense_row_panel<T, 2>, dense_row_panel<T, 3>,
                                                  dense_row_panel<T, 4>, dense_row_panel<T, 5>, dense_row_panel<T, 6>,
                                                  dense_row_panel<T, 7>, dense_row_panel<T, 8>};
  const int64_t registers = (r.out + lanes - 1) / lanes, count = (registers + kRowRegisters - 1) / kRowRegisters;
  for (int64_t q = 0, j = 0; q < count; ++q) {
    const int64_t vectors = registers / count + (q < registers % count);
    panels[vectors - 1](r, j);
    j += vectors * lanes;
  }
  if (r.activation != Activation::linear && r.activation != Activation::relu)
    activation_forward_range<T>(r.activation, r.alpha, r.out, r.y, r.y);
}

}  // namespace fp::FP_ISA_NAMESPACE
