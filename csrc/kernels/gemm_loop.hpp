// The innermost loop of a tile of three rows and more on AVX2, in assembly. Its sums, a row of b and an element of a
// take all 16 registers; compilers that unroll such a loop read operands twice or keep a sum in memory. Unrolled it
// takes 20 instructions for 12 multiplications, 24 otherwise: too many where two hardware threads share a core and what
// it can hand out in a cycle. (Measured: docs/performance_avx2.md, "Instructions".)
#pragma once

#include "kernels/epilogue.hpp"
#include "kernels/simd.hpp"

namespace fp::FP_ISA_NAMESPACE {

// Rows of a tile from which on there is a loop, indices per turn of it, and what columns of a may take in all to be in
// the inner caches anyway.
inline constexpr int kLoopRows = 3;
inline constexpr int64_t kLoopStep = 4, kNearBytes = 96 * 1024;

template <class T, int rows>
class TileLoop;  // only where kLoops holds

}  // namespace fp::FP_ISA_NAMESPACE

#if defined(FP_ISA_AVX2)

namespace fp::FP_ISA_NAMESPACE {

// How elements of a tile's rows of a lie: rows one after the other or apart (a_col == 1), packed (index by index, and
// tile by tile), or in columns apart (a_row == 1), which are fetched ahead unless all of them are near. How a panel's
// rows of b lie: one after the other, or apart.
enum class Left { rows, packed, columns, near_columns };
enum class Right { together, apart };

// The pieces of the loop. S: bytes of an element; D: the letter of its type; R: rows of the tile; V: registers of b; u:
// index; i: row; v: register. Sums lie in registers of the compiler's choice, b in 12 to 14, elements of a in 14
// and 15. rcx: turns left; rdx, r8: bytes between rows or columns of a, and three times as many; r9, r11: the same of
// b; r10: five times as many between rows, or the column kAhead columns ahead.
// clang-format off
#define FP_ROW_0 "(%[a])"
#define FP_ROW_1 "(%[a],%%rdx)"
#define FP_ROW_2 "(%[a],%%rdx,2)"
#define FP_ROW_3 "(%[a],%%r8)"
#define FP_ROW_4 "(%[a],%%rdx,4)"
#define FP_ROW_5 "(%[a],%%r10)"
#define FP_LEFT_ROWS(R, S, u, i) #u "*" #S FP_ROW_##i
#define FP_LEFT_PACKED(R, S, u, i) #u "*" #R "*" #S "+" #i "*" #S "(%[a])"
#define FP_COLUMN_0(at) "(" at ")"
#define FP_COLUMN_1(at) "(" at ",%%rdx)"
#define FP_COLUMN_2(at) "(" at ",%%rdx,2)"
#define FP_COLUMN_3(at) "(" at ",%%r8)"
#define FP_LEFT_COLUMNS(R, S, u, i) #i "*" #S FP_COLUMN_##u("%[a]")
#define FP_LEFT_NEAR_COLUMNS(R, S, u, i) FP_LEFT_COLUMNS(R, S, u, i)
#define FP_BEGIN_ROWS "lea (%%rdx,%%rdx,4), %%r10\n\t"
#define FP_BEGIN_PACKED ""
#define FP_BEGIN_COLUMNS "mov %%rdx, %%r10\n\t" "shl $4, %%r10\n\t" "add %[a], %%r10\n\t"
#define FP_BEGIN_NEAR_COLUMNS ""
#define FP_NEXT_ROWS(u) ""
#define FP_NEXT_PACKED(u) ""
#define FP_NEXT_COLUMNS(u) "prefetcht0 " FP_COLUMN_##u("%%r10") "\n\t"
#define FP_NEXT_NEAR_COLUMNS(u) ""
#define FP_TURN_ROWS(R, S) "add $4*" #S ", %[a]\n\t"
#define FP_TURN_PACKED(R, S) "add $4*" #R "*" #S ", %[a]\n\t"
#define FP_TURN_COLUMNS(R, S) "lea (%%r10,%%rdx,4), %%r10\n\t" FP_TURN_NEAR_COLUMNS(R, S)
#define FP_TURN_NEAR_COLUMNS(R, S) "lea (%[a],%%rdx,4), %[a]\n\t"

#define FP_INDEX_0 "(%[b])"
#define FP_INDEX_1 "(%[b],%%r9)"
#define FP_INDEX_2 "(%[b],%%r9,2)"
#define FP_INDEX_3 "(%[b],%%r11)"
#define FP_RIGHT_TOGETHER(V, u, v) #u "*" #V "*32+" #v "*32(%[b])"
#define FP_RIGHT_APART(V, u, v) #v "*32" FP_INDEX_##u
#define FP_TURN_TOGETHER(V) "add $4*32*" #V ", %[b]\n\t"
#define FP_TURN_APART(V) "lea (%[b],%%r9,4), %[b]\n\t"

#define FP_LOAD(D, at, to) "vmovup" #D " " at ", %%ymm" #to "\n\t"
#define FP_BROADCAST(D, at, to) "vbroadcasts" #D " " at ", %%ymm" #to "\n\t"
#define FP_FMA(D, x, b, sum) "vfmadd231p" #D " %%ymm" #b ", %%ymm" #x ", %[" #sum "]\n\t"

#define FP_LOADS_2(D, G, u) FP_LOAD(D, FP_RIGHT_##G(2, u, 0), 12) FP_LOAD(D, FP_RIGHT_##G(2, u, 1), 13)
#define FP_LOADS_3(D, G, u) \
  FP_LOAD(D, FP_RIGHT_##G(3, u, 0), 12) FP_LOAD(D, FP_RIGHT_##G(3, u, 1), 13) FP_LOAD(D, FP_RIGHT_##G(3, u, 2), 14)
#define FP_ROW_OF_2(D, S, L, R, u, i, x) \
  FP_BROADCAST(D, FP_LEFT_##L(R, S, u, i), x) FP_FMA(D, x, 12, c##i##0) FP_FMA(D, x, 13, c##i##1)
#define FP_ROW_OF_3(D, S, L, R, u, i, x) \
  FP_BROADCAST(D, FP_LEFT_##L(R, S, u, i), 15) \
  FP_FMA(D, 15, 12, c##i##0) FP_FMA(D, 15, 13, c##i##1) FP_FMA(D, 15, 14, c##i##2)
#define FP_ROWS_3(D, S, L, R, V, u) \
  FP_ROW_OF_##V(D, S, L, R, u, 0, 14) FP_ROW_OF_##V(D, S, L, R, u, 1, 15) FP_ROW_OF_##V(D, S, L, R, u, 2, 14)
#define FP_ROWS_4(D, S, L, R, V, u) FP_ROWS_3(D, S, L, R, V, u) FP_ROW_OF_##V(D, S, L, R, u, 3, 15)
#define FP_ROWS_5(D, S, L, R, V, u) FP_ROWS_4(D, S, L, R, V, u) FP_ROW_OF_##V(D, S, L, R, u, 4, 14)
#define FP_ROWS_6(D, S, L, R, V, u) FP_ROWS_5(D, S, L, R, V, u) FP_ROW_OF_##V(D, S, L, R, u, 5, 15)
#define FP_STEP(D, S, L, G, R, V, u) FP_LOADS_##V(D, G, u) FP_ROWS_##R(D, S, L, R, V, u) FP_NEXT_##L(u)

#define FP_SUM(i, q) [c##i##q] "+x"(acc[i][q].v)
#define FP_SUMS_32 FP_SUM(0, 0), FP_SUM(0, 1), FP_SUM(1, 0), FP_SUM(1, 1), FP_SUM(2, 0), FP_SUM(2, 1)
#define FP_SUMS_33 FP_SUMS_32, FP_SUM(0, 2), FP_SUM(1, 2), FP_SUM(2, 2)
#define FP_SUMS_42 FP_SUMS_32, FP_SUM(3, 0), FP_SUM(3, 1)
#define FP_SUMS_52 FP_SUMS_42, FP_SUM(4, 0), FP_SUM(4, 1)
#define FP_SUMS_62 FP_SUMS_52, FP_SUM(5, 0), FP_SUM(5, 1)
#define FP_SUMS_43 FP_SUMS_33, FP_SUM(3, 0), FP_SUM(3, 1), FP_SUM(3, 2)

// A statement may have 30 operands, of which a sum is two: turns and strides come from memory.
#define FP_LOOP(D, S, L, G, R, V) \
  asm volatile( \
      "mov 0(%[n]), %%rcx\n\t" \
      "mov 8(%[n]), %%rdx\n\t" \
      "mov 16(%[n]), %%r9\n\t" \
      "lea (%%rdx,%%rdx,2), %%r8\n\t" \
      FP_BEGIN_##L \
      "lea (%%r9,%%r9,2), %%r11\n\t" \
      ".p2align 5\n" \
      "1:\n\t" \
      FP_STEP(D, S, L, G, R, V, 0) FP_STEP(D, S, L, G, R, V, 1) \
      FP_STEP(D, S, L, G, R, V, 2) FP_STEP(D, S, L, G, R, V, 3) \
      FP_TURN_##L(R, S) FP_TURN_##G(V) \
      "dec %%rcx\n\t" \
      "jnz 1b" \
      : FP_SUMS_##R##V, [a] "+r"(a), [b] "+r"(b) \
      : [n] "r"(numbers) \
      : "rcx", "rdx", "r8", "r9", "r10", "r11", "xmm12", "xmm13", "xmm14", "xmm15", "cc", "memory")

// Adds to acc the sums over kLoopStep * numbers[0] indices, at least one turn; numbers[1], numbers[2]: bytes between
// rows or columns of a, and rows of b. a and b move on.
#define FP_TILE_LOOP_BESIDE(D, S, G, R, V) \
  if constexpr (left == Left::rows) FP_LOOP(D, S, ROWS, G, R, V); \
  if constexpr (left == Left::packed) FP_LOOP(D, S, PACKED, G, R, V); \
  if constexpr (left == Left::columns) FP_LOOP(D, S, COLUMNS, G, R, V); \
  if constexpr (left == Left::near_columns) FP_LOOP(D, S, NEAR_COLUMNS, G, R, V);
#define FP_TILE_LOOP(T, D, S, R, V) \
  template <Left left, Right right> \
  FP_INLINE void tile_loop(Vec<T>(&acc)[R][V], const T*& a, const T*& b, const int64_t (&numbers)[3]) { \
    if constexpr (right == Right::together) { \
      FP_TILE_LOOP_BESIDE(D, S, TOGETHER, R, V) \
    } else { \
      FP_TILE_LOOP_BESIDE(D, S, APART, R, V) \
    } \
  }
FP_TILE_LOOP(float, s, 4, 3, 2)
FP_TILE_LOOP(float, s, 4, 3, 3)
FP_TILE_LOOP(float, s, 4, 4, 2)
FP_TILE_LOOP(float, s, 4, 4, 3)
FP_TILE_LOOP(float, s, 4, 5, 2)
FP_TILE_LOOP(float, s, 4, 6, 2)
FP_TILE_LOOP(double, d, 8, 3, 2)
FP_TILE_LOOP(double, d, 8, 3, 3)
FP_TILE_LOOP(double, d, 8, 4, 2)
FP_TILE_LOOP(double, d, 8, 4, 3)
FP_TILE_LOOP(double, d, 8, 5, 2)
FP_TILE_LOOP(double, d, 8, 6, 2)
#undef FP_BEGIN_COLUMNS
#undef FP_BEGIN_NEAR_COLUMNS
#undef FP_BEGIN_PACKED
#undef FP_BEGIN_ROWS
#undef FP_BROADCAST
#undef FP_COLUMN_0
#undef FP_COLUMN_1
#undef FP_COLUMN_2
#undef FP_COLUMN_3
#undef FP_FMA
#undef FP_INDEX_0
#undef FP_INDEX_1
#undef FP_INDEX_2
#undef FP_INDEX_3
#undef FP_LEFT_COLUMNS
#undef FP_LEFT_NEAR_COLUMNS
#undef FP_LEFT_PACKED
#undef FP_LEFT_ROWS
#undef FP_LOAD
#undef FP_LOADS_2
#undef FP_LOADS_3
#undef FP_LOOP
#undef FP_NEXT_COLUMNS
#undef FP_NEXT_NEAR_COLUMNS
#undef FP_NEXT_PACKED
#undef FP_NEXT_ROWS
#undef FP_RIGHT_APART
#undef FP_RIGHT_TOGETHER
#undef FP_ROWS_3
#undef FP_ROWS_4
#undef FP_ROWS_5
#undef FP_ROWS_6
#undef FP_ROW_0
#undef FP_ROW_1
#undef FP_ROW_2
#undef FP_ROW_3
#undef FP_ROW_4
#undef FP_ROW_5
#undef FP_ROW_OF_2
#undef FP_ROW_OF_3
#undef FP_STEP
#undef FP_SUM
#undef FP_SUMS_32
#undef FP_SUMS_33
#undef FP_SUMS_42
#undef FP_SUMS_43
#undef FP_SUMS_52
#undef FP_SUMS_62
#undef FP_TILE_LOOP
#undef FP_TILE_LOOP_BESIDE
#undef FP_TURN_APART
#undef FP_TURN_COLUMNS
#undef FP_TURN_NEAR_COLUMNS
#undef FP_TURN_PACKED
#undef FP_TURN_ROWS
#undef FP_TURN_TOGETHER
// clang-format on

// The loop for tiles of `rows` rows and operands with such strides, a_col == 1 or a_row == 1; width: elements of a row
// of the panel.
template <class T, int rows>
class TileLoop {
 public:
  FP_INLINE_MEMBER TileLoop(int64_t a_row, int64_t a_col, int64_t b_row, int64_t width, int64_t turns)
      : left_(a_col == 1                                       ? Left::rows
              : a_col == rows                                  ? Left::packed
              : turns * kLoopStep * a_col <= kNearBytes / size ? Left::near_columns
                                                               : Left::columns),
        right_(b_row == width ? Right::together : Right::apart),
        numbers_{turns, (a_col == 1 ? a_row : a_col) * size, b_row * size} {}

  // Adds the sums of all turns to acc; a and b move on.
  template <int vectors>
  FP_INLINE_MEMBER void operator()(Vec<T> (&acc)[rows][vectors], const T*& a, const T*& b) const {
    if (numbers_[0] <= 0) return;
    right_ == Right::together ? beside<Right::together>(acc, a, b) : beside<Right::apart>(acc, a, b);
  }

 private:
  template <Right right, int vectors>
  FP_INLINE_MEMBER void beside(Vec<T> (&acc)[rows][vectors], const T*& a, const T*& b) const {
    switch (left_) {
      case Left::rows:
        return tile_loop<Left::rows, right>(acc, a, b, numbers_);
      case Left::packed:
        return tile_loop<Left::packed, right>(acc, a, b, numbers_);
      case Left::columns:
        return tile_loop<Left::columns, right>(acc, a, b, numbers_);
      case Left::near_columns:
        return tile_loop<Left::near_columns, right>(acc, a, b, numbers_);
    }
  }

  static constexpr int64_t size = sizeof(T);
  Left left_;
  Right right_;
  int64_t numbers_[3];
};

}  // namespace fp::FP_ISA_NAMESPACE

#endif
