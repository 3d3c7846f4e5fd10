// Compiled once for AVX512-BF16 and once for AMX: the bfloat16 products of that instruction set.
#include "kernels/bf16.hpp"

#if defined(FP_ISA_AVX512_BF16)
#include "kernels/bf16_dot.hpp"
#else
#include "kernels/bf16_tiles.hpp"
#endif

namespace fp {
namespace FP_ISA_NAMESPACE {

constexpr Products16 products() {
  Products16 p{};
  p.name = FP_ISA_NAME;
  p.right_bytes = pairs_bytes;
  p.pack_right = pack_pairs;
  p.pack_right_transposed = pack_pairs_transposed;
#if defined(FP_ISA_AVX512_BF16)
  p.row_grain = kTileRows;
  p.slab_rows = 256;
  p.speed = 2;
  p.left_bytes = rows_bytes;
  p.pack_left = pack_rows;
  p.left_transposed_bytes = pairs_transposed_bytes;
  p.pack_left_transposed = pack_pairs;
  p.scratch = dot_scratch;
  p.product = dot_product;
  p.peak = dot_peak;
#else
  p.row_grain = 16;
  p.slab_rows = kTileGroup;
  p.speed = 10;
  p.left_bytes = squares_bytes;
  p.pack_left = pack_squares;
  p.left_transposed_bytes = squares_bytes;
  p.keeps = true;
  p.pack_left_transposed = pack_squares_transposed;
  p.pack_left_transposed_kept = pack_squares_transposed_kept;
  p.scratch = tile_scratch;
  p.product = tile_product;
  p.peak = tile_peak;
#endif
  return p;
}

}  // namespace FP_ISA_NAMESPACE

extern "C" constexpr Products16 FP_ISA_SYMBOL(fp_bf16_) = FP_ISA_NAMESPACE::products();

}  // namespace fp
