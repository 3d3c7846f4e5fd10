// Gradient descent, with and without momentum, one formula for the fused and the separate update:
//
//   v = fma(-learning_rate, g, round(momentum v))
//   w = round(w + v), or with nesterov w = round(w + fma(-learning_rate, g, round(momentum v)))
//   without momentum: w = fma(-learning_rate, g, w)
#pragma once

#include "kernels/simd.hpp"

namespace fp::FP_ISA_NAMESPACE {

template <class T>
struct Sgd {
  Vec<T> learning_rate, momentum;
  bool nesterov;
};

template <class T>
FP_INLINE Vec<T> sgd_plain(const Sgd<T>& s, Vec<T> w, Vec<T> g) {
  return fnma(s.learning_rate, g, w);
}
// Returns the new w and changes v.
template <class T>
FP_INLINE Vec<T> sgd_momentum(const Sgd<T>& s, Vec<T> w, Vec<T> g, Vec<T>& v) {
  v = fnma(s.learning_rate, g, mul(s.momentum, v));
  return add(w, s.nesterov ? fnma(s.learning_rate, g, mul(s.momentum, v)) : v);
}

// Vec-wise update of the first n lanes of a register; v may be nullptr.
template <class T>
FP_INLINE void sgd_part(const Sgd<T>& s, int64_t n, T* w, Vec<T> g, T* v) {
  Vec<T> old = load_part(w, n);
  if (!v) return store_part(w, n, sgd_plain(s, old, g));
  Vec<T> velocity = load_part(v, n);
  Vec<T> updated = sgd_momentum(s, old, g, velocity);
  store_part(v, n, velocity);
  store_part(w, n, updated);
}
template <class T>
FP_INLINE void sgd_full(const Sgd<T>& s, T* w, Vec<T> g, T* v) {
  if (!v) return store(w, sgd_plain(s, load(w), g));
  Vec<T> velocity = load(v);
  Vec<T> updated = sgd_momentum(s, load(w), g, velocity);
  store(v, velocity);
  store(w, updated);
}

template <class T>
void sgd_update(int64_t count, T* w, const T* g, T* v, T learning_rate, T momentum, bool nesterov) {
  const Sgd<T> s{broadcast(learning_rate), broadcast(momentum), nesterov};
  constexpr int lanes = Vec<T>::lanes;
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) sgd_full(s, w + i, load(g + i), v ? v + i : nullptr);
  if (i < count) sgd_part(s, count - i, w + i, load_part(g + i, count - i), v ? v + i : nullptr);
}

}  // namespace fp::FP_ISA_NAMESPACE
