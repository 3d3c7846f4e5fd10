// The contract between the kernels and everything above them.
//
// Kernels are range functions over raw pointers: no threads, no allocation, no exceptions, no C++
// standard library. Each instruction set compiles the same sources once and exports one symbol, a
// Table. Row strides ("_row") count elements; columns are always contiguous unless "_col" is given.
#pragma once

#include <cstdint>

#include "kernels/inline.hpp"

namespace fp {

// Numbers are shared with src/fastperceptron/program.py; a test compares the two.
enum class Activation : int32_t {
  linear = 0,
  relu = 1,
  leaky_relu = 2,  // alpha: slope for z < 0
  elu = 3,         // alpha: minus the limit at -infinity
  selu = 4,
  gelu = 5,       // z Phi(z), by erf
  gelu_tanh = 6,  // Hendrycks & Gimpel's tanh approximation
  silu = 7,
  mish = 8,
  softplus = 9,
  softsign = 10,
  sigmoid = 11,
  tanh = 12,
  step = 13,     // 1 for z >= 0, else 0; the derivative is 0 by definition
  softmax = 14,  // over a row: an operation, never an epilogue
};
inline constexpr int kActivations = 15;

// Whether the derivative is computed from the pre-activation z (true) or from the output y (false).
constexpr bool derivative_needs_z(Activation a) {
  return a == Activation::gelu || a == Activation::gelu_tanh || a == Activation::silu || a == Activation::mish ||
         a == Activation::softplus;
}

enum class Loss : int32_t {
  mean_squared_error = 0,
  mean_absolute_error = 1,
  huber = 2,  // parameter: delta
  binary_cross_entropy = 3,
  binary_cross_entropy_logits = 4,
  categorical_cross_entropy = 5,
  categorical_cross_entropy_logits = 6,
  sparse_categorical_cross_entropy = 7,
  sparse_categorical_cross_entropy_logits = 8,
  hinge = 9,        // target > 0 counts as +1, anything else as -1
  perceptron = 10,  // max(0, -t z), same targets as hinge
};
inline constexpr int kLosses = 11;

constexpr bool loss_takes_labels(Loss l) {
  return l == Loss::sparse_categorical_cross_entropy || l == Loss::sparse_categorical_cross_entropy_logits;
}

// Probabilities are clipped to [epsilon, 1 - epsilon] before a logarithm (as Keras).
constexpr double probability_epsilon = 1e-7;

// What a product does with a finished tile. One struct, one switch per tile.
enum class EpilogueKind : int32_t {
  store = 0,     // c = sum
  forward = 1,   // z = sum + bias; c = act(z); pre = z when pre != nullptr
  backward = 2,  // c = sum * act'(saved)
  sgd = 3,       // the sum is a gradient: update c (the weights) and velocity; see sgd_update
};

template <class T>
struct Epilogue {
  EpilogueKind kind = EpilogueKind::store;
  Activation activation = Activation::linear;
  T alpha = 0;
  const T* bias = nullptr;  // (n,), readable to the last column only, unless GemmArgs::c_padded
  T* pre = nullptr;         // (m, n), row stride pre_row
  int64_t pre_row = 0;
  const T* saved = nullptr;  // (m, n): z or y, see derivative_needs_z; row stride saved_row
  int64_t saved_row = 0;
  T* velocity = nullptr;  // (m, n), row stride of c; nullptr: no momentum
  T learning_rate = 0;
  T momentum = 0;
  bool nesterov = false;
};

// A matrix of `row` columns, pads included, in parts of `part` columns, one after the other, the last one perhaps
// narrower. Element (i, j) of the part that begins at column b lies at origin(b) + i * stride(b) + j.
struct Parted {
  int64_t rows, row, part;

  FP_INLINE_MEMBER bool is_whole() const { return part == row; }
  FP_INLINE_MEMBER int64_t begin(int64_t j) const { return j / part * part; }
  FP_INLINE_MEMBER int64_t stride(int64_t b) const { return row - b < part ? row - b : part; }
  FP_INLINE_MEMBER int64_t origin(int64_t b) const { return (rows - 1) * b; }
};

// c[i, j] = sum over p of a[i, p] b[p, j], in ordered sums: p is cut into blocks of `block`, each block is a
// chain of fused multiply-adds from +0 in index order, block sums are added in block order to +0.
// (The first block sum is stored, not added, when accumulate is false.) Then the epilogue runs.
// accumulate: c already holds the sum of earlier blocks and p starts at a block boundary of the whole sum
// (only with EpilogueKind::store). c must not overlap a or b; saved may equal c.
// Sums over the batch's rows (weight and bias gradients) are cut shorter than those over a layer's inputs or outputs:
// threads then share a batch's blocks.
inline constexpr int64_t kBlock = 256, kRowBlock = 128;

template <class T>
struct GemmArgs {
  int64_t m, n, k;
  const T* a;            // element (i, p) at a[i * a_row + p * a_col]
  int64_t a_row, a_col;  // one of the two is 1
  const T* b;            // (k, n), row stride b_row
  int64_t b_row;
  T* c;  // (m, n), row stride c_row
  int64_t c_row;
  bool accumulate;
  Epilogue<T> epilogue;
  T* scratch;  // gemm_scratch(m, n, k) elements, 64-byte aligned; private to the caller
  int64_t block = kBlock;
  // Where parted.part > 0, c and velocity point to a whole matrix that lies in parts, in which the product's c begins
  // at row first_i and column first_j; c_row is not used.
  Parted parted = {0, 0, 0};
  int64_t first_i = 0, first_j = 0;
  // When given, the rows of a (a_col == 1), or those of its transpose (a_row == 1), lie anywhere: element (i, p) at
  // a_rows[i][a_first + p], or a_rows[p][a_first + i]; a and the other stride are 0. See Kernels::scattered.
  const T* const* a_rows = nullptr;
  int64_t a_first = 0;
  // When given, as many rows as a_rows has, of which the same elements will be read next: to be fetched meanwhile.
  const T* const* a_next = nullptr;
  // When given, rows b_row apart that will be read as b next: likewise.
  const T* b_next = nullptr;
  // When given, (n,), and m > 0: what c would have, with store, for one more row of a, of ones. A bias gradient, beside
  // that of the weights.
  T* column_sums = nullptr;
  // Whether rows of b, or of c and all that its epilogue reads and writes, go on beyond column n to a whole register at
  // least. Of what stands there b's may be anything; c's and the epilogue's are used as if the sums there were zero.
  bool b_padded = false, c_padded = false;
};

// y = act(x w + b) for one row, in the same ordered sums. Rows of w, b and y can be used to the next multiple of 16
// columns: what stands there is read, and written. Not softmax.
template <class T>
struct RowArgs {
  int64_t in, out;  // at least 1
  const T* x;       // (in,)
  const T* w;       // (in, out), row stride w_row
  int64_t w_row;
  const T* b;  // (out,), or nullptr
  Activation activation;
  T alpha;
  T* y;  // (out,); apart from x, w and b
};

// Rows of a batch against their targets. losses[i] is the row's unweighted loss (mean over the columns for the
// elementwise losses); gradient = scale * weights[i] * d losses[i] / d prediction. gradient may be
// nullptr, may not overlap prediction. weights may be nullptr (all 1).
template <class T>
struct LossArgs {
  Loss kind;
  T parameter;
  int64_t n, width;
  const T* prediction;  // (n, width)
  int64_t prediction_row;
  const T* target;  // (n, width), or nullptr for label losses
  int64_t target_row;
  const int64_t* label;  // (n,), each already checked to lie in [0, width); or nullptr
  const T* weights;      // (n,)
  T scale;
  double* losses;  // (n,), nullptr: not wanted
  T* gradient;     // (n, width)
  int64_t gradient_row;
};

// Of DropoutArgs, 0 <= rate < 1: floor(rate 2^32), and 1 / (1 - rate) rounded from float64.
FP_INLINE_MEMBER uint32_t dropout_threshold(double rate) { return static_cast<uint32_t>(rate * 4294967296.0); }
template <class T>
FP_INLINE_MEMBER T dropout_scale(double rate) {
  return static_cast<T>(1 / (1 - rate));
}

// y = x * mask / (1 - rate). Element (i, j) is kept when word j % 4 of
// Philox4x32-10(counter = (j / 4, row0 + i, step & 0xffffffff, (stream << 16) | (step >> 32 & 0xffff)),
// key = (key & 0xffffffff, key >> 32)) is >= threshold. The backward pass is the same function on dy. y may equal x.
template <class T>
struct DropoutArgs {
  int64_t n, width, row0;
  const T* x;
  int64_t x_row;
  T* y;
  int64_t y_row;
  uint32_t threshold;  // dropout_threshold(rate)
  T scale;             // dropout_scale<T>(rate)
  uint64_t key, step;
  uint32_t stream;
};

// Whether gemm takes rows of a that lie anywhere: not at all, any, but slowly unless they are mostly zeros, or any.
enum class Scattered { never, slowly, quickly };

template <class T>
struct Kernels {
  int64_t lanes;      // elements of one vector register
  int64_t tile_rows;  // rows of the main micro-kernel: split work over rows of c in multiples of this
  Scattered scattered;

  void (*gemm)(const GemmArgs<T>&);
  int64_t (*gemm_scratch)(int64_t m, int64_t n, int64_t k);
  // Whether a has so many zeros that gemm leaves out most multiplications by them, where b is finite. Bits are the
  // same.
  bool (*leaves_out_zeros)(const GemmArgs<T>&);

  void (*dense_row)(const RowArgs<T>&);

  // out[j] (+)= sum over i of a[i, j]: the same ordered sums, with a factor of one and blocks of `block`.
  void (*column_sums)(int64_t n, int64_t width, const T* a, int64_t a_row, T* out, bool accumulate, int64_t block);
  // out[j, i] = a[i, j]
  void (*transpose)(int64_t rows, int64_t cols, const T* a, int64_t a_row, T* out, int64_t out_row);

  // Elementwise, over one contiguous range. Not softmax. y may equal z; dz may equal dy or saved.
  void (*activation_forward)(Activation, T alpha, int64_t count, const T* z, T* y);
  // dz = dy * act'(saved), saved being z or y as derivative_needs_z says.
  void (*activation_backward)(Activation, T alpha, int64_t count, const T* dy, const T* saved, T* dz);
  // y = softmax(z), dz = y (dy - sum_j dy_j y_j) over each of n rows of `width`. y may equal z; dz may equal dy or y.
  void (*softmax_forward)(int64_t n, int64_t width, const T* z, int64_t z_row, T* y, int64_t y_row);
  void (*softmax_backward)(int64_t n, int64_t width, const T* dy, int64_t dy_row, const T* y, int64_t y_row, T* dz,
                           int64_t dz_row);

  void (*loss)(const LossArgs<T>&);
  void (*dropout)(const DropoutArgs<T>&);

  // v = momentum v - learning_rate g; w += v, or with nesterov w += momentum v - learning_rate g;
  // without momentum (v == nullptr) w -= learning_rate g. Products and sums are each a single rounding or an fma
  // as written in sgd.hpp, so that the epilogue and this function give the same bits.
  void (*sgd_update)(int64_t count, T* w, const T* g, T* v, T learning_rate, T momentum, bool nesterov);

  void (*add)(int64_t count, const T* x, T* y);       // y += x
  void (*multiply)(int64_t count, const T* x, T* y);  // y *= x

  // Multiply-adds as fast as registers allow; returns the flop done, two per multiply-add, in proportion to iterations.
  // values: factor and addend in, a result out that makes the work wanted. ops/peak.cpp times it.
  int64_t (*peak)(int64_t iterations, T* values);
};

struct Products16;  // bf16.hpp

struct Table {
  const char* name;  // "generic", "avx2", "avx512", "neon"
  Kernels<float> f32;
  Kernels<double> f64;
  const Products16* bf16;  // bfloat16 operands widened to float32

  // out[4 i + w] = word w of Philox4x32-10(counter = (b, b >> 32, step & 0xffffffff, (stream << 16) | (step >> 32 &
  // 0xffff)), key as in DropoutArgs), b = first + i. first: a multiple of 16, so that no register's b pass 2^32.
  void (*random_words)(uint64_t key, uint32_t stream, uint64_t step, int64_t first, int64_t count, uint32_t* out);
};

// Each is defined only in the build's per-instruction-set objects; runtime/dispatch.cpp chooses.
extern "C" const Table fp_table_generic;
extern "C" const Table fp_table_avx2;
extern "C" const Table fp_table_avx512;
extern "C" const Table fp_table_neon;

}  // namespace fp
