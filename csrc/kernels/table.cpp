// Compiled once per instruction set (FP_ISA_*): all kernels, exported as one table.
#include "kernels/table.hpp"

#include "kernels/activations.hpp"
#include "kernels/bf16_widened.hpp"
#include "kernels/dense_row.hpp"
#include "kernels/dropout.hpp"
#include "kernels/gemm.hpp"
#include "kernels/losses.hpp"
#include "kernels/peak.hpp"
#include "kernels/philox.hpp"
#include "kernels/sgd.hpp"
#include "kernels/softmax.hpp"
#include "kernels/sums.hpp"

namespace fp {
namespace FP_ISA_NAMESPACE {

template <class T>
constexpr Kernels<T> kernels() {
  Kernels<T> k{};
  k.lanes = Vec<T>::lanes;
  k.tile_rows = kTileRows;
  k.scattered = kScattered ? Scattered::quickly : kSparse ? Scattered::slowly : Scattered::never;
  k.gemm = gemm<T>;
  k.gemm_scratch = gemm_scratch<T>;
  k.leaves_out_zeros = gemm_leaves_out_zeros<T>;
  k.dense_row = dense_row<T>;
  k.column_sums = column_sums<T>;
  k.transpose = transpose<T>;
  k.activation_forward = activation_forward_range<T>;
  k.activation_backward = activation_backward_range<T>;
  k.softmax_forward = softmax_forward_rows<T>;
  k.softmax_backward = softmax_backward_rows<T>;
  k.loss = loss_rows<T>;
  k.dropout = dropout_rows<T>;
  k.sgd_update = sgd_update<T>;
  k.add = add_range<T>;
  k.multiply = multiply_range<T>;
  k.peak = peak<T>;
  return k;
}

static constexpr Products16 kWidened = widened_products(FP_ISA_NAME);

}  // namespace FP_ISA_NAMESPACE

extern "C" constexpr Table FP_ISA_SYMBOL(fp_table_) = {FP_ISA_NAME, FP_ISA_NAMESPACE::kernels<float>(),
                                                       FP_ISA_NAMESPACE::kernels<double>(), &FP_ISA_NAMESPACE::kWidened,
                                                       FP_ISA_NAMESPACE::random_words};

}  // namespace fp
