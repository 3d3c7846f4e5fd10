// The tile instructions that bf16_tiles.hpp needs: AMX's, or with FP_AMX_SOFTWARE the same operations over tiles in
// memory, so that the kernel can be tested on any machine with AVX512-BF16. A tile has up to 16 rows of 64 bytes.
#pragma once

#include "kernels/bf16_pack.hpp"

namespace fp::FP_ISA_NAMESPACE {

// LDTILECFG's memory format.
struct TileShape {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileShape) == 64);

#if defined(FP_AMX_SOFTWARE)

struct TileUnit {
  alignas(64) float tile[8][16][16] = {};
  TileShape shape;
};

inline void tile_configure(TileUnit& u, const TileShape& shape) {
  u.shape = shape;
  __builtin_memset(u.tile, 0, sizeof u.tile);
}
inline void tile_release(TileUnit& u) { u.shape = TileShape(); }
template <int i>
void tile_clear(TileUnit& u) {
  __builtin_memset(u.tile[i], 0, sizeof u.tile[i]);
}
template <int i>
void tile_read(TileUnit& u, const void* from, int64_t stride) {
  tile_clear<i>(u);
  for (int r = 0; r < u.shape.rows[i]; ++r)
    __builtin_memcpy(u.tile[i][r], static_cast<const char*>(from) + r * stride, u.shape.bytes[i]);
}
template <int i>
void tile_read_once(TileUnit& u, const void* from, int64_t stride) {
  tile_read<i>(u, from, stride);
}
template <int i>
void tile_write(const TileUnit& u, void* to, int64_t stride) {
  for (int r = 0; r < u.shape.rows[i]; ++r)
    __builtin_memcpy(static_cast<char*>(to) + r * stride, u.tile[i][r], u.shape.bytes[i]);
}
FP_INLINE float from_bf16(uint16_t x) {
  const uint32_t wide = uint32_t(x) << 16;
  float f;
  __builtin_memcpy(&f, &wide, 4);
  return f;
}
// As Intel's manual describes it: the even and the odd products are summed apart, then together, then with c.
template <int c, int a, int b>
void tile_multiply(TileUnit& u) {
  for (int r = 0; r < u.shape.rows[c]; ++r) {
    uint16_t left[32];
    __builtin_memcpy(left, u.tile[a][r], 64);
    float even[16] = {}, odd[16] = {};
    for (int p = 0; p < u.shape.rows[b]; ++p) {
      uint16_t right[32];
      __builtin_memcpy(right, u.tile[b][p], 64);
      for (int j = 0; j < 16; ++j) {
        even[j] = __builtin_fmaf(from_bf16(left[2 * p]), from_bf16(right[2 * j]), even[j]);
        odd[j] = __builtin_fmaf(from_bf16(left[2 * p + 1]), from_bf16(right[2 * j + 1]), odd[j]);
      }
    }
    for (int j = 0; j < 16; ++j) u.tile[c][r][j] += even[j] + odd[j];
  }
}

#else

// Tiles are registers. Instructions by number: the compiler has no say in their use.
struct TileUnit {};

FP_INLINE void tile_configure(TileUnit&, const TileShape& shape) { asm volatile("ldtilecfg %0" : : "m"(shape)); }
FP_INLINE void tile_release(TileUnit&) { asm volatile("tilerelease"); }
template <int i>
FP_INLINE void tile_clear(TileUnit&) {
  asm volatile("tilezero %%tmm%c0" : : "i"(i));
}
template <int i>
FP_INLINE void tile_read(TileUnit&, const void* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(i) : "memory");
}
// With the hint that it is not needed again soon: what is stays in the first-level cache.
template <int i>
FP_INLINE void tile_read_once(TileUnit&, const void* from, int64_t stride) {
  asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(i) : "memory");
}
template <int i>
FP_INLINE void tile_write(const TileUnit&, void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(i) : "memory");
}
template <int c, int a, int b>
FP_INLINE void tile_multiply(TileUnit&) {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(c), "i"(a), "i"(b));
}

#endif

}  // namespace fp::FP_ISA_NAMESPACE
