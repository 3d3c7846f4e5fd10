// Dropout: random words, and the mask that they make. Dropped elements become +0, whatever they were.
#pragma once

#include "kernels/philox.hpp"
#include "kernels/simd.hpp"
#include "kernels/table.hpp"

namespace fp::FP_ISA_NAMESPACE {

// All ones where the word is >= threshold, one word per element.
template <class T>
FP_INLINE typename Vec<T>::U words_at_least(const uint32_t* words, uint32_t threshold) {
  using U = typename Vec<T>::U;
  typedef uint32_t Narrow __attribute__((vector_size(Vec<T>::lanes * 4)));
  Narrow w;
  __builtin_memcpy(&w, words, sizeof w);
  return (U)(__builtin_convertvector(w, U) >= typename Vec<T>::Bits(threshold) - U{});
}

template <class T>
static void dropout_rows(const DropoutArgs<T>& a) {
  constexpr int lanes = Vec<T>::lanes;
  const Philox philox(a.key);
  const Vec<T> scale = broadcast(a.scale);
  constexpr int64_t chunk = 4 * kWordLanes;
  uint32_t words[chunk];
  const Words first = first_counter(a.stream, a.step);
  for (int64_t i = 0; i < a.n; ++i) {
    const T* x = a.x + i * a.x_row;
    T* y = a.y + i * a.y_row;
    const Words counter = with_second(first, uint32_t(a.row0 + i));
    for (int64_t j = 0, end; j < a.width; j += end) {
      // Rows end in single registers, so that narrow ones cost no more than they need.
      const int64_t left = a.width - j;
      if (left > 2 * kWordLanes) {
        philox.generate<4>(counter, uint32_t(j / 4), words);
        end = left < chunk ? left : chunk;
      } else {
        philox.generate<1>(counter, uint32_t(j / 4), words);
        end = left < kWordLanes ? left : kWordLanes;
      }
      for (int64_t k = 0; k < end; k += lanes) {
        const auto keep = words_at_least<T>(words + k, a.threshold);
        if (int64_t n = end - k; n >= lanes) {
          store(y + j + k, from_bits<T>(bits(mul(load(x + j + k), scale)) & keep));
        } else {
          store_part(y + j + k, n, from_bits<T>(bits(mul(load_part(x + j + k, n), scale)) & keep));
        }
      }
    }
  }
}

}  // namespace fp::FP_ISA_NAMESPACE
