// Dense products of bfloat16 operands: the contract between their kernels and everything above them.
//
// c = left right, left (m, k) and right (k, n) being float32 matrices that are rounded to bfloat16 (to the nearest,
// ties to even; NaN stays NaN, subnormal numbers count as zero) while they are packed, in a layout that each path
// chooses. Products are exact or fused, sums are float32. One output's sum depends on its row of left and its column of
// right alone:
//
//   widened (every instruction set): rounded numbers in float32, and the ordered sums of gemm.hpp. A product of two
//     bfloat16 numbers is exact in float32, so that all instruction sets give the same bits, generic included.
//   avx512_bf16: pairs of neighbours along the sum, vdpbf16ps.
//     Sums are cut into blocks of kBlock16; block sums are added in block order.
//   amx: 32 numbers along the sum at a time, tdpbf16ps. A sum is one chain from its beginning to its end, beginning
//     with c where it accumulates.
//
// Each path repeats its own bits, for any part of the output, any number of threads and any batch; paths differ from
// each other by rounding in float32.
#pragma once

#include "kernels/table.hpp"

namespace fp {

inline constexpr int64_t kBlock16 = 512;

// A part of a float32 matrix (rows, cols) to pack. r0 and c0 are multiples of 16, but for those that say otherwise.
// Parts may be packed by different threads at once. The part that holds the last index of the sum also clears what pads
// it.
struct Pack16 {
  const float* x;
  int64_t x_row, rows, cols;
  int64_t r0, r1, c0, c1;
  void* out;  // the whole operand, 64-byte aligned
};

// Results that are kept packed as operands of later products: either instead of c (c == nullptr, no accumulation), or
// as copies of the weights that an update has just written (EpilogueKind::sgd; right, with or without
// right_transposed). Whole matrices of rows x cols, in which a product's part of them begins at row i (a multiple of
// kSums16) and at its column j0; those that are nullptr are not wanted. The part that holds the last row also clears
// what pads `right`, the part that holds the last column what pads `left` and `right_transposed`.
struct Kept16 {
  int64_t rows = 0, cols = 0, i = 0;
  void* left = nullptr;   // as pack_left packs them
  void* right = nullptr;  // as pack_right does
  void* right_transposed = nullptr;
  float* sums = nullptr;        // of every kSums16 rows, before rounding: one chain from +0; row stride sums_row, whole
  int64_t sums_row = 0;         // registers are written
  const void* saved = nullptr;  // what the epilogue's derivative reads instead of epilogue.saved, packed as `left`
};

// Rows of a block of a bias gradient's sum, in mixed precision on every path.
inline constexpr int64_t kSums16 = 16;

struct Product16 {
  int64_t m, n, k;  // of the part of c
  const void* left;
  int64_t left_rows, i0;  // rows of the whole operand; where this part begins (a multiple of 16)
  bool transposed;        // packed by pack_left_transposed
  const void* right;
  int64_t right_cols, j0;  // columns of the whole operand; where this part begins (a multiple of 16)
  float* c;                // (m, n), row stride c_row; the epilogue's pointers are those of this part, too
  int64_t c_row;           // c == nullptr: the results are kept packed instead
  Kept16 kept;
  bool accumulate;  // as in GemmArgs
  Epilogue<float> epilogue;
  float* scratch;  // scratch(...) elements, 64-byte aligned; private to the caller
};

struct Products16 {
  const char* name;
  int64_t row_grain;  // split work over rows of c in multiples of this
  int64_t slab_rows;  // pack so many rows of left at once, for a product that follows while they are in cache
  int64_t speed;      // about how many times as fast as the same table's float32 product
  bool keeps;         // whether results can be kept packed

  int64_t (*left_bytes)(int64_t m, int64_t k);
  int64_t (*left_transposed_bytes)(int64_t m, int64_t k);
  int64_t (*right_bytes)(int64_t k, int64_t n);

  void (*pack_left)(const Pack16&);                               // source (m, k): whole rows, any r0
  void (*pack_left_transposed)(const Pack16&);                    // source (k, m): an even r0
  void (*pack_left_transposed_kept)(const Pack16&, const void*);  // the source being kept as a left operand instead
  void (*pack_right)(const Pack16&);                              // source (k, n): an even r0
  void (*pack_right_transposed)(const Pack16&);                   // source (n, k)

  // Enough for any part of a product of this size, and for smaller products.
  int64_t (*scratch)(int64_t m, int64_t n, int64_t k);
  void (*product)(const Product16&);
  // The fastest arithmetic of the path, operands in registers, as Kernels::peak.
  int64_t (*peak)(int64_t iterations, float* values);
};

// Defined in objects of their own where the compiler can make them; every Table has the widened products besides.
extern "C" const Products16 fp_bf16_avx512_bf16;
extern "C" const Products16 fp_bf16_amx;
extern "C" const Products16 fp_bf16_amx_software;  // the tile kernel over tiles in memory, for tests

}  // namespace fp
