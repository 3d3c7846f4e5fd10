// What becomes of finished squares of a product of tiles: the epilogue, and the packing of results that are kept as
// operands of later products.
#pragma once

#include "kernels/bf16_pack.hpp"
#include "kernels/epilogue.hpp"

namespace fp::FP_ISA_NAMESPACE {

inline constexpr int kSide = 32;  // of a square

// A square whose sums are there and whose epilogue is not done yet. It runs between the steps of the next square, eight
// rows at a time, so that the multipliers go on while its numbers leave the tiles and what it touches is on its way.
struct TileEnd {
  const Product16& product;
  Tiles<float> t;   // the eight rows at hand; total: room for them
  char* half;       // room for eight packed rows, which wait for the next eight to be transposed with them
  const float* at;  // their sums, rows of kSide
  int64_t rows;     // how many are left
  void (*eight)(TileEnd&);

  void some() {
    if (rows <= 0) return;
    t.rows = rows < kTileRows ? rows : kTileRows;
    eight(*this);
    t.i += kTileRows;
    at += kTileRows * kSide;
    rows -= kTileRows;
  }
  void all() {
    while (rows > 0) some();
  }
};

// The results of eight rows into the operands that keep them.
template <int vectors>
FP_INLINE void tile_keep(TileEnd& end, Vec<float> (&acc)[kTileRows][vectors]) {
  const Kept16& k = end.product.kept;
  const int64_t rows = end.t.rows, cols = end.t.cols, i = k.i + end.t.i, j = end.product.j0 + end.t.j;
  const bool last_row = i + rows == k.rows, last_col = j + cols == k.cols;
  if (cols < vectors * 16 || rows < kTileRows) {
    FP_UNROLL for (int s = 0; s < kTileRows; ++s) FP_UNROLL for (int v = 0; v < vectors; ++v) acc[s][v] =
        first_of(acc[s][v], s >= rows          ? 0
                            : v == vectors - 1 ? cols - (vectors - 1) * 16
                                               : 16);
  }
  if (k.left) {
    char* to = static_cast<char*>(k.left) + in_squares(i, j, k.cols);
    const bool second_half = j % 32 != 0;  // of the first line
    if (vectors == 2 && !second_half) {
      FP_UNROLL for (int s = 0; s < kTileRows; ++s) {
        if (s < rows) store_pairs(to + s * 64, convert(acc[s][0], acc[s][vectors - 1]));
      }
    } else {
      FP_UNROLL for (int s = 0; s < kTileRows; ++s) {
        if (s >= rows) continue;
        char* line = to + s * 64;
        store_rounded(line, acc[s][0]);
        if (vectors == 2) store_rounded(line + 1024 - 32, acc[s][vectors - 1]);
        if (last_col && second_half == (vectors == 2)) store_rounded(line + (second_half ? 1024 : 32), zero<float>());
      }
    }
  }
  if (k.right) {
    FP_UNROLL for (int v = 0; v < vectors; ++v) {
      char* to = static_cast<char*>(k.right) + in_pairs(i, j + v * 16, k.rows);
      FP_UNROLL for (int s = 0; s < kTileRows; s += 2) {
        if (s < rows) store_pairs(to + s * 32, interleave(acc[s][v], acc[s + 1][v]));
      }
      if (!last_row) continue;
      for (int64_t r = (rows + 1) / 2 * 2; i + r < padded_sum(k.rows); r += 2) store_pairs(to + r * 32, no_pairs());
    }
  }
  if (k.sums) {
    float* sums = k.sums + i / kSums16 * k.sums_row + j;
    FP_UNROLL for (int v = 0; v < vectors; ++v) {
      Vec<float> sum = i % kSums16 == 0 ? zero<float>() : load(sums + v * 16);
      FP_UNROLL for (int s = 0; s < kTileRows; ++s) sum = add(acc[s][v], sum);
      store(sums + v * 16, sum);
    }
  }
  if (k.right_transposed) {
    // 16 rows at a time: the first eight of them wait, unless they are the last.
    Pairs square[16];
    const bool first = i % 16 == 0;
    FP_UNROLL for (int s = 0; s < kTileRows; ++s) {
      const Pairs row = convert(acc[s][0], vectors == 2 ? acc[s][vectors - 1] : zero<float>());
      square[s] = first ? row : load_pairs(end.half + s * 64);
      square[s + kTileRows] = first ? no_pairs() : row;
      if (first) store_pairs(end.half + s * 64, row);
    }
    if (first && !last_row) return;
    transpose_pairs(square);
    char* to = static_cast<char*>(k.right_transposed) + in_pairs(j, i / 16 * 16, k.cols);
    const int64_t count = ((last_col ? padded_sum(k.cols) - j : cols) + 1) / 2;
    FP_UNROLL for (int r = 0; r < 16; ++r) {
      if (r < count) store_pairs(to + r * 64, square[r]);
    }
    for (int64_t r = 16; r < count; ++r) store_pairs(to + r * 64, no_pairs());
  }
}

// The same from rows in memory.
template <int vectors>
__attribute__((noinline)) void tile_keep_rows(TileEnd& end, const float* from, int64_t row) {
  Vec<float> acc[kTileRows][vectors];
  FP_UNROLL for (int s = 0; s < kTileRows; ++s) FP_UNROLL for (int v = 0; v < vectors; ++v) acc[s][v] =
      s < end.t.rows ? load_up_to(from + s * row + v * 16, end.t.cols - v * 16) : zero<float>();
  tile_keep(end, acc);
}

// What becomes of eight rows of a square whose results go to c.
template <int vectors>
void tile_end_in_c(TileEnd& end) {
  const Tiles<float>& t = end.t;
  const GemmArgs<float>& g = *t.g;
  Vec<float> acc[kTileRows][vectors];
  FP_UNROLL for (int s = 0; s < kTileRows; ++s) FP_UNROLL for (int v = 0; v < vectors; ++v) acc[s][v] =
      load(end.at + s * kSide + v * 16);
  const bool keeps = end.product.kept.right != nullptr;
  if (t.rows == kTileRows && tile_finish(acc, t)) {
    if (keeps) tile_keep(end, acc);
    return;
  }
  tile_store(acc, t.total);
  tile_finish_total(t);
  if (keeps) tile_keep_rows<vectors>(end, g.c + t.i * g.c_row + t.j, g.c_row);
}

// What becomes of eight rows of a square whose results are kept packed.
template <int vectors>
void tile_end_kept(TileEnd& end) {
  const Tiles<float>& t = end.t;
  const Epilogue<float>& e = t.g->epilogue;
  const Kept16& k = end.product.kept;
  const int64_t i = k.i + t.i, j = end.product.j0 + t.j;
  const int64_t last = t.cols - (vectors - 1) * 16;  // columns of the last register
  Vec<float> acc[kTileRows][vectors];
  FP_UNROLL for (int s = 0; s < kTileRows; ++s) FP_UNROLL for (int v = 0; v < vectors; ++v) acc[s][v] =
      load(end.at + s * kSide + v * 16);
  const auto saved = [&](int64_t s, int64_t v) __attribute__((always_inline)) {
    return load_rounded(static_cast<const char*>(k.saved) + in_squares(i + s, j + v * 16, k.cols));
  };
  const bool relu = e.activation == Activation::relu;
  // Frequent kinds stay in registers.
  if (e.kind == EpilogueKind::forward && !e.pre && (relu || e.activation == Activation::linear)) {
    FP_UNROLL for (int v = 0; v < vectors; ++v) {
      if (e.bias) {
        const Vec<float> bias = load_part(e.bias + t.j + v * 16, v == vectors - 1 ? last : 16);
        FP_UNROLL for (int s = 0; s < kTileRows; ++s) acc[s][v] = add(acc[s][v], bias);
      }
      if (relu) {
        FP_UNROLL for (int s = 0; s < kTileRows; ++s) acc[s][v] =
            activation_forward_vector<Activation::relu>(acc[s][v], e.alpha);
      }
    }
  } else if (e.kind == EpilogueKind::backward && relu && k.saved) {
    FP_UNROLL for (int s = 0; s < kTileRows; ++s) FP_UNROLL for (int v = 0; v < vectors; ++v) acc[s][v] =
        activation_backward_vector<Activation::relu>(acc[s][v], saved(s, v), e.alpha);
  } else if (e.kind != EpilogueKind::store) {
    constexpr int64_t width = vectors * 16;
    alignas(64) float result[kTileRows * width], widened[kTileRows * width];
    GemmArgs<float> g = *t.g;  // of these rows alone
    g.c = result;
    g.c_row = width;
    if (g.epilogue.bias) g.epilogue.bias += t.j;
    if (g.epilogue.pre) g.epilogue.pre += t.i * g.epilogue.pre_row + t.j;
    if (k.saved) {
      for (int64_t s = 0; s < t.rows; ++s)
        FP_UNROLL for (int v = 0; v < vectors; ++v) store(widened + s * width + v * 16, saved(s, v));
      g.epilogue.saved = widened;
      g.epilogue.saved_row = width;
    } else if (g.epilogue.saved) {
      g.epilogue.saved += t.i * g.epilogue.saved_row + t.j;
    }
    Tiles<float> alone = t;
    alone.g = &g;
    alone.i = alone.j = 0;
    tile_store(acc, t.total);
    tile_finish_total(alone);
    return tile_keep_rows<vectors>(end, result, width);
  }
  tile_keep(end, acc);
}

}  // namespace fp::FP_ISA_NAMESPACE
