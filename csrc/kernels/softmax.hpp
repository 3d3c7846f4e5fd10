// Softmax over rows and its derivative. Sums run in 16 virtual lanes and the fixed tree, so a row's bits depend on
// that row alone.
//
// The row's maximum is subtracted first. -infinity beside a finite entry gets probability 0; a row with NaN or
// +infinity, or of nothing but -infinity, has no softmax and becomes NaN throughout.
#pragma once

#include "kernels/math.hpp"
#include "kernels/table.hpp"

namespace fp::FP_ISA_NAMESPACE {

// The elements of a row from column j on, as many as a register holds or there are; the others `fill`.
template <class T>
FP_INLINE Vec<T> load_row(const T* row, int64_t j, int64_t width, T fill) {
  const int64_t left = width - j;
  if (left >= Vec<T>::lanes) return load(row + j);
  if (left <= 0) return broadcast(fill);
  return select(mask_first<T>(left), load_part(row + j, left), broadcast(fill));
}
template <class T>
FP_INLINE void store_row(T* row, int64_t j, int64_t width, Vec<T> x) {
  const int64_t left = width - j;
  if (left >= Vec<T>::lanes) {
    store(row + j, x);
  } else if (left > 0) {
    store_part(row + j, left, x);
  }
}

// The 16 elements from column j of a row, or those there are; the others `fill`.
template <class T>
FP_INLINE Wide<T> wide_load_row(const T* row, int64_t j, int64_t width, T fill) {
  if (width - j >= 16) return wide_load(row + j);
  Wide<T> w;
  for (int r = 0; r < Wide<T>::registers; ++r) w.r[r] = load_row(row, j + r * Vec<T>::lanes, width, fill);
  return w;
}
template <class T>
FP_INLINE void wide_store_row(T* row, int64_t j, int64_t width, const Wide<T>& w) {
  if (width - j >= 16) return wide_store(row + j, w);
  for (int r = 0; r < Wide<T>::registers; ++r) store_row(row, j + r * Vec<T>::lanes, width, w.r[r]);
}

// The fixed tree (lane j takes lane j + 8, then + 4, + 2, + 1) in registers, the result in every lane. The exchanged
// operands are added in both orders, which is the same. (Of max this holds but for NaN and the sign of zero, which no
// use below can tell.)
template <int half, class T, class Combine>
FP_INLINE Vec<T> fold(Vec<T> a, Combine combine) {
  if constexpr (half == 0) {
    return a;
  } else {
    return fold<half / 2>(combine(a, exchange<half>(a)), combine);
  }
}
template <class T, class Combine>
FP_INLINE Vec<T> wide_fold(Wide<T> w, Combine combine) {
  for (int half = Wide<T>::registers / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) w.r[i] = combine(w.r[i], w.r[i + half]);
  return fold<Vec<T>::lanes / 2>(w.r[0], combine);
}
template <class T>
FP_INLINE Vec<T> wide_sum(const Wide<T>& w) {
  return wide_fold(w, [](Vec<T> a, Vec<T> b) __attribute__((always_inline)) { return add(a, b); });
}
template <class T>
FP_INLINE Vec<T> wide_max(const Wide<T>& w) {
  return wide_fold(w, [](Vec<T> a, Vec<T> b) __attribute__((always_inline)) { return max(a, b); });
}

// The larger of each pair of lanes, b where either is NaN.
template <class T>
FP_INLINE Wide<T> wide_larger(const Wide<T>& a, Wide<T> b) {
  for (int i = 0; i < Wide<T>::registers; ++i) b.r[i] = max(a.r[i], b.r[i]);
  return b;
}

template <class T>
FP_INLINE Vec<T> row_max(const T* row, int64_t width) {
  Wide<T> highest = wide_broadcast(-T(__builtin_inf()));
  for (int64_t j = 0; j < width; j += 16)
    highest = wide_larger(wide_load_row(row, j, width, -T(__builtin_inf())), highest);
  return wide_max(highest);
}

// e^(z - shift), z <= shift.
template <class T>
FP_INLINE Wide<T> wide_exp(Wide<T> z, Vec<T> shift) {
  for (int i = 0; i < Wide<T>::registers; ++i) z.r[i] = exp_nonpositive(sub(z.r[i], shift));
  return z;
}
template <class T>
FP_INLINE Wide<T> wide_scale(Wide<T> x, Vec<T> factor) {
  for (int i = 0; i < Wide<T>::registers; ++i) x.r[i] = mul(x.r[i], factor);
  return x;
}

// Of at most 8 halves columns, without leaving the registers.
template <int halves, class T>
FP_INLINE void softmax_forward_short_row(int64_t width, const T* z, T* y) {
  constexpr int lanes = Vec<T>::lanes, used = halves * 8 / lanes;
  Wide<T> e = wide_broadcast(-T(__builtin_inf())), sum = wide_broadcast(T(0));
  FP_UNROLL for (int r = 0; r < used; ++r) e.r[r] = load_row(z, r * lanes, width, -T(__builtin_inf()));
  const Vec<T> highest = wide_max(e);
  FP_UNROLL for (int r = 0; r < used; ++r) sum.r[r] = e.r[r] = exp_nonpositive(sub(e.r[r], highest));
  const Vec<T> inverse = div(broadcast(T(1)), wide_sum(sum));
  FP_UNROLL for (int r = 0; r < used; ++r) store_row(y, r * lanes, width, mul(e.r[r], inverse));
}

template <class T>
FP_INLINE void softmax_forward_row(int64_t width, const T* z, T* y) {
  constexpr T lowest = -T(__builtin_inf());
  if constexpr (Wide<T>::registers > 1) {
    if (width <= 8) return softmax_forward_short_row<1>(width, z, y);
  }
  if (width <= 16) return softmax_forward_short_row<2>(width, z, y);
  Vec<T> highest = row_max(z, width);
  Wide<T> sum = wide_broadcast(T(0));
  for (int64_t j = 0; j < width; j += 16) {
    Wide<T> e = wide_exp(wide_load_row(z, j, width, lowest), highest);
    for (int i = 0; i < Wide<T>::registers; ++i) sum.r[i] = add(sum.r[i], e.r[i]);
    wide_store_row(y, j, width, e);
  }
  Vec<T> inverse = div(broadcast(T(1)), wide_sum(sum));
  for (int64_t j = 0; j < width; j += 16)
    wide_store_row(y, j, width, wide_scale(wide_load_row(y, j, width, T(0)), inverse));
}

// y = softmax(z) over each of n rows; z, y (n, width).
template <class T>
static void softmax_forward_rows(int64_t n, int64_t width, const T* z, int64_t z_row, T* y, int64_t y_row) {
  for (int64_t i = 0; i < n; ++i) softmax_forward_row(width, z + i * z_row, y + i * y_row);
}

// dz = y (dy - sum_j dy_j y_j) over each of n rows; dy, y, dz (n, width).
template <class T>
static void softmax_backward_rows(int64_t n, int64_t width, const T* dy, int64_t dy_row, const T* y, int64_t y_row,
                                  T* dz, int64_t dz_row) {
  for (int64_t i = 0; i < n; ++i, dy += dy_row, y += y_row, dz += dz_row) {
    Wide<T> products = wide_broadcast(T(0));
    for (int64_t j = 0; j < width; j += 16) {
      Wide<T> a = wide_load_row(dy, j, width, T(0)), b = wide_load_row(y, j, width, T(0));
      for (int r = 0; r < Wide<T>::registers; ++r) products.r[r] = fma(a.r[r], b.r[r], products.r[r]);
    }
    const Vec<T> sum = wide_sum(products);
    for (int64_t j = 0; j < width; j += 16) {
      Wide<T> a = wide_load_row(dy, j, width, T(0)), b = wide_load_row(y, j, width, T(0));
      for (int r = 0; r < Wide<T>::registers; ++r) a.r[r] = mul(b.r[r], sub(a.r[r], sum));
      wide_store_row(dz, j, width, a);
    }
  }
}

}  // namespace fp::FP_ISA_NAMESPACE
