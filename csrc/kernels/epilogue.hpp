// What happens to a finished tile of a dense product: stored, biased and activated, multiplied by a derivative, or used
// as a gradient. The frequent kinds work on registers, the others on the tile's total in its buffer.
#pragma once

#include "kernels/activations.hpp"
#include "kernels/sgd.hpp"
#include "kernels/simd.hpp"
#include "kernels/table.hpp"

namespace fp::FP_ISA_NAMESPACE {

// Rows and registers of the largest tile: as many independent sums as the register file holds beside one row of b
// and one broadcast element of a. Narrower tiles may have more rows: kTallRows, [registers - 1].
#if defined(FP_ISA_AVX512) || defined(FP_ISA_NEON)
inline constexpr int kTileRows = 8, kTileVectors = 3, kTallRows[] = {8, 8, 8};
#elif defined(FP_ISA_AVX2)
inline constexpr int kTileRows = 4, kTileVectors = 3, kTallRows[] = {8, 6, 4};
#else
inline constexpr int kTileRows = 4, kTileVectors = 2, kTallRows[] = {4, 4};
#endif

// kCheapParts: a part of a register costs no more than all of it, so that tiles that are not full finish in registers
// too. kHalves: half a register may cost less than all of it, so that the last one of a panel is halved where that
// suffices (Zen 4 multiplies halves one after the other; elsewhere it makes no difference). kScattered: rows of a may
// lie anywhere, as tiles take so long for an index of the sum that looking up where it lies costs nothing. kSparse:
// zeros are quickly found. kLoops: tiles of kLoopRows rows and more sum by kernels/gemm_loop.hpp. kFetching: full tiles
// fetch what is read as b next, for third-level caches that are as far away as Sapphire Rapids'.
#if defined(FP_ISA_AVX512)
inline constexpr bool kCheapParts = true, kHalves = true, kScattered = true, kFetching = true;
#else
inline constexpr bool kCheapParts = false, kHalves = false, kScattered = false, kFetching = false;
#endif
#if defined(FP_ISA_AVX512) || defined(FP_ISA_AVX2)
inline constexpr bool kSparse = true;
#else
inline constexpr bool kSparse = false;
#endif
#if defined(FP_ISA_AVX2)
inline constexpr bool kLoops = true;
#else
inline constexpr bool kLoops = false;
#endif

constexpr unsigned kind_bit(EpilogueKind kind) { return 1u << static_cast<int>(kind); }
// Those of products that make values, gradients of values, and gradients of weights.
inline constexpr unsigned kForwardKinds = kind_bit(EpilogueKind::store) | kind_bit(EpilogueKind::forward);
inline constexpr unsigned kValueKinds = kForwardKinds | kind_bit(EpilogueKind::backward);
inline constexpr unsigned kWeightKinds = kind_bit(EpilogueKind::store) | kind_bit(EpilogueKind::sgd);

// The simplest epilogue that does the same, without the pointers that it does not use.
template <class T>
Epilogue<T> plain(Epilogue<T> e) {
  if (e.kind == EpilogueKind::backward && e.activation == Activation::linear) e.kind = EpilogueKind::store;
  if (e.kind != EpilogueKind::backward) e.saved = nullptr;
  if (e.kind != EpilogueKind::sgd) e.velocity = nullptr;
  return e;
}

// What epilogues read of a product over packed operands.
template <class Product>
GemmArgs<float> epilogue_arguments(const Product& p) {
  GemmArgs<float> g{};
  g.m = p.m;
  g.n = p.n;
  g.c = p.c;
  g.c_row = p.c_row;
  g.epilogue = plain(p.epilogue);
  return g;
}

// Consecutive tiles of one panel of the product g, `rows` x `vectors` registers each (template arguments of what works
// on them), width = vectors * lanes. i, a and total are those of the tile at hand.
template <class T>
struct Tiles {
  const GemmArgs<T>* g;
  int64_t i, j;  // place in c
  int64_t cols;  // columns in c, (vectors - 1) * lanes < cols <= width
  int64_t rows, width;
  int64_t count;
  const T* a;  // element (i, p) at a[i * a_row + p * a_col]; the next tile's a is a_next further
  int64_t a_row, a_col, a_next;
  // Or, when given, element (i, p) of the panel at a_rows[i][a_first + p] (a_col == 1), or at a_rows[p][a_first + i].
  const T* const* a_rows;
  int64_t a_first;
  const T* b;  // row p at b + p * b_row for p < safe, else at tail + (p - safe) * width
  int64_t b_row;
  int64_t safe;
  const T* tail;
  T* packed;      // where the packing tile copies b to: (k, width)
  const T* next;  // when given, k rows, next_row apart, that are read as b after these tiles
  int64_t next_row;
  int64_t k;
  T* total;            // (rows, width): the sums of finished blocks
  int64_t total_next;  // from one tile's total to the next one's; 0: shared, as it is not needed for long
  bool from_c;         // the earlier blocks are in c: copy them to total
  bool resume;         // total holds earlier blocks
  bool finish;         // these are the last blocks: the epilogue follows
  bool every;          // of mostly zeros: no term may be left out, as b is not finite
};

template <class T, int rows, int vectors>
FP_INLINE void tile_store(const Vec<T> (&acc)[rows][vectors], T* total) {
  FP_UNROLL for (int i = 0; i < rows; ++i) FP_UNROLL for (int v = 0; v < vectors; ++v)
      store(total + (i * vectors + v) * Vec<T>::lanes, acc[i][v]);
}

// What the epilogue will touch, fetched while the last block is summed.
template <class T>
FP_INLINE void tile_prefetch(const Tiles<T>& t) {
  constexpr int64_t line = 64 / sizeof(T);
  const GemmArgs<T>& g = *t.g;
  const Epilogue<T>& e = g.epilogue;
  for (int64_t i = t.i; i < t.i + t.rows; ++i) {
    for (int64_t j = t.j; j < t.j + t.cols; j += line) {
      __builtin_prefetch(g.c + i * g.c_row + j, 1);
      if (e.velocity) __builtin_prefetch(e.velocity + i * g.c_row + j, 1);
      if (e.saved) __builtin_prefetch(e.saved + i * e.saved_row + j);
    }
  }
}

template <class T>
__attribute__((noinline)) void tile_load(const Tiles<T>& t) {
  for (int64_t i = 0; i < t.rows; ++i) {
    const T* c = t.g->c + (t.i + i) * t.g->c_row + t.j;
    for (int64_t j = 0; j < t.cols; j += Vec<T>::lanes)
      store(t.total + i * t.width + j, load_part(c + j, t.cols - j < Vec<T>::lanes ? t.cols - j : Vec<T>::lanes));
  }
}

// The sums are in t.total. Everything that need not be fast.
template <class T>
__attribute__((noinline)) void tile_finish_total(const Tiles<T>& t) {
  const int64_t rows = t.rows, width = t.width;
  constexpr int lanes = Vec<T>::lanes;
  const Epilogue<T>& e = t.g->epilogue;
  if (e.kind == EpilogueKind::forward) {
    for (int64_t j = 0; j < t.cols; j += lanes) {
      const int64_t n = t.cols - j < lanes ? t.cols - j : lanes;
      const Vec<T> bias = e.bias ? load_part(e.bias + t.j + j, n) : zero<T>();
      for (int64_t i = 0; i < rows; ++i) {
        T* z = t.total + i * width + j;
        if (e.bias) store(z, add(load(z), bias));
        if (e.pre) store_part(e.pre + (t.i + i) * e.pre_row + t.j + j, n, load(z));
      }
    }
    if (e.activation != Activation::linear)
      activation_forward_range<T>(e.activation, e.alpha, rows * width, t.total, t.total);
  }
  if (e.kind == EpilogueKind::sgd && t.cols == t.g->c_row) {
    // Whole rows without padding: close up the total and update one range.
    for (int64_t i = 1; i < rows; ++i)
      for (int64_t j = 0; j < width; j += lanes) store(t.total + i * t.cols + j, load(t.total + i * width + j));
    const int64_t at = t.i * t.cols + t.j;
    return sgd_update(rows * t.cols, t.g->c + at, t.total, e.velocity ? e.velocity + at : nullptr, e.learning_rate,
                      e.momentum, e.nesterov);
  }
  const Sgd<T> s{broadcast(e.learning_rate), broadcast(e.momentum), e.nesterov};
  for (int64_t i = 0; i < rows; ++i) {
    const T* total = t.total + i * width;
    const int64_t at = (t.i + i) * t.g->c_row + t.j;
    T* c = t.g->c + at;
    if (e.kind == EpilogueKind::backward) {
      activation_backward_range<T>(e.activation, e.alpha, t.cols, total, e.saved + (t.i + i) * e.saved_row + t.j, c);
      continue;
    }
    T* velocity = e.velocity ? e.velocity + at : nullptr;
    for (int64_t j = 0; j < t.cols; j += lanes) {
      const int64_t n = t.cols - j < lanes ? t.cols - j : lanes;
      if (e.kind == EpilogueKind::sgd)
        sgd_part(s, n, c + j, load(total + j), velocity ? velocity + j : nullptr);
      else
        store_part(c + j, n, load(total + j));
    }
  }
}

// Register v of a row of c, of which the last one holds `last` columns.
template <int vectors, bool parts, class T>
FP_INLINE Vec<T> load_column(const T* p, int v, int64_t last) {
  p += v * Vec<T>::lanes;
  return parts && v == vectors - 1 ? load_part(p, last) : load(p);
}
template <int vectors, bool parts, class T>
FP_INLINE void store_column(T* p, int v, int64_t last, Vec<T> x) {
  p += v * Vec<T>::lanes;
  if (parts && v == vectors - 1)
    store_part(p, last, x);
  else
    store(p, x);
}

// The kinds that registers finish: the frequent ones.
template <class T>
FP_INLINE bool is_frequent(const Epilogue<T>& e) {
  const bool relu = e.activation == Activation::relu;
  switch (e.kind) {
    case EpilogueKind::store:
    case EpilogueKind::sgd:
      return true;
    case EpilogueKind::forward:
      return !e.pre && (relu || e.activation == Activation::linear);
    case EpilogueKind::backward:
      return relu;
  }
  return false;
}

// Finishes the frequent kinds from registers, `last` columns in the last of them; false when this is not one of them.
// parts: also where c ends within a register, unless it is an update; kinds: of the frequent ones, those that may occur
// often enough here to be worth the code.
template <bool parts = kCheapParts, unsigned kinds = ~0u, class T, int rows, int vectors>
FP_INLINE bool tile_finish(Vec<T> (&acc)[rows][vectors], const Tiles<T>& t, int64_t last) {
  const GemmArgs<T>& g = *t.g;
  const Epilogue<T>& e = g.epilogue;
  if ((kinds & kind_bit(e.kind)) == 0 || !is_frequent(e)) return false;
  if (__builtin_expect(last < Vec<T>::lanes, false)) {
    if (g.c_padded) {
      const Mask<T> in_c = mask_first<T>(last);
      FP_UNROLL for (int i = 0; i < rows; ++i) acc[i][vectors - 1] = select(in_c, acc[i][vectors - 1], zero<T>());
      last = Vec<T>::lanes;
    } else if (!parts || e.kind == EpilogueKind::sgd) {
      // A load from a line that a masked store has just changed waits for it, so an update goes by whole rows.
      return false;
    }
  }
  const int64_t c_row = g.c_row;  // read once: as far as compilers know, stores may change it
  T* c = g.c + t.i * c_row + t.j;
  switch (e.kind) {
    case EpilogueKind::store:
      break;
    case EpilogueKind::forward:
      if constexpr ((kinds & kind_bit(EpilogueKind::forward)) == 0) break;
      if (e.bias) {
        FP_UNROLL for (int v = 0; v < vectors; ++v) {
          const Vec<T> bias = load_column<vectors, parts>(e.bias + t.j, v, last);
          FP_UNROLL for (int i = 0; i < rows; ++i) acc[i][v] = add(acc[i][v], bias);
        }
      }
      if (e.activation == Activation::relu) {
        FP_UNROLL for (int i = 0; i < rows; ++i) FP_UNROLL for (int v = 0; v < vectors; ++v) acc[i][v] =
            activation_forward_vector<Activation::relu>(acc[i][v], e.alpha);
      }
      break;
    case EpilogueKind::backward: {
      if constexpr ((kinds & kind_bit(EpilogueKind::backward)) == 0) break;
      const T* saved = e.saved + t.i * e.saved_row + t.j;
      FP_UNROLL for (int i = 0; i < rows; ++i) FP_UNROLL for (int v = 0; v < vectors; ++v) acc[i][v] =
          activation_backward_vector<Activation::relu>(
              acc[i][v], load_column<vectors, parts>(saved + i * e.saved_row, v, last), e.alpha);
      break;
    }
    case EpilogueKind::sgd: {
      if constexpr ((kinds & kind_bit(EpilogueKind::sgd)) == 0) break;
      const Sgd<T> s{broadcast(e.learning_rate), broadcast(e.momentum), e.nesterov};
      if (e.velocity) {
        T* velocity = e.velocity + t.i * c_row + t.j;
        FP_UNROLL for (int i = 0; i < rows; ++i) FP_UNROLL for (int v = 0; v < vectors; ++v) {
          Vec<T> moved = load_column<vectors, parts>(velocity + i * c_row, v, last);
          acc[i][v] = sgd_momentum(s, load_column<vectors, parts>(c + i * c_row, v, last), acc[i][v], moved);
          store_column<vectors, parts>(velocity + i * c_row, v, last, moved);
        }
      } else {
        FP_UNROLL for (int i = 0; i < rows; ++i) FP_UNROLL for (int v = 0; v < vectors; ++v) acc[i][v] =
            sgd_plain(s, load_column<vectors, parts>(c + i * c_row, v, last), acc[i][v]);
      }
      break;
    }
  }
  FP_UNROLL for (int i = 0; i < rows; ++i) FP_UNROLL for (int v = 0; v < vectors; ++v)
      store_column<vectors, parts>(c + i * c_row, v, last, acc[i][v]);
  return true;
}

template <bool parts = kCheapParts, unsigned kinds = ~0u, class T, int rows, int vectors>
FP_INLINE bool tile_finish(Vec<T> (&acc)[rows][vectors], const Tiles<T>& t) {
  return tile_finish<parts, kinds>(acc, t, t.cols - (vectors - 1) * Vec<T>::lanes);
}

// Column j of the tile, whose rows lie in the lanes of sum, finished as tile_finish finishes whole registers: the
// frequent kinds but sgd.
template <class T, int rows>
FP_INLINE void tile_finish_column(Vec<T> sum, const Tiles<T>& t, int64_t j) {
  const Epilogue<T>& e = t.g->epilogue;
  if (e.kind == EpilogueKind::forward) {
    if (e.bias) sum = add(sum, broadcast(e.bias[t.j + j]));
    if (e.activation == Activation::relu) sum = activation_forward_vector<Activation::relu>(sum, e.alpha);
  }
  if (e.kind == EpilogueKind::backward) {
    const T* saved = e.saved + t.i * e.saved_row + t.j + j;
    Vec<T> column = zero<T>();
    FP_UNROLL for (int i = 0; i < rows; ++i) column.v[i] = saved[i * e.saved_row];
    sum = activation_backward_vector<Activation::relu>(sum, column, e.alpha);
  }
  T* c = t.g->c + t.i * t.g->c_row + t.j + j;
  FP_UNROLL for (int i = 0; i < rows; ++i) c[i * t.g->c_row] = sum.v[i];
}

}  // namespace fp::FP_ISA_NAMESPACE
