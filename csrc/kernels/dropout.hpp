// Dropout: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, SC 2011) on vectors, and the mask it makes. The same words as
// runtime/philox.hpp. Dropped elements become +0, whatever they were.
#pragma once

#include "kernels/simd.hpp"
#include "kernels/table.hpp"

namespace fp::FP_ISA_NAMESPACE {

// Unsigned 32-bit words, and the same bits by two.
using Words = Vec<float>::U;
using Pairs = Vec<double>::U;
constexpr int kWordLanes = Vec<float>::lanes;

// (a, b, c, d) in every group of four words.
FP_INLINE Words words_repeat(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  uint32_t w[kWordLanes];
  for (int i = 0; i < kWordLanes; i += 4) {
    w[i] = a;
    w[i + 1] = b;
    w[i + 2] = c;
    w[i + 3] = d;
  }
  Words r;
  __builtin_memcpy(&r, w, sizeof r);
  return r;
}

// A Philox block stays in one group of four words: a round multiplies words 0 and 2, and the products, in reverse word
// order, are the next counter but for the exclusive-or with words 1 and 3 and the key.
struct Philox {
  static constexpr int rounds = 10;
  Words key[rounds];

  FP_INLINE_MEMBER explicit Philox(uint64_t seed) {
    for (int i = 0; i < rounds; ++i)
      key[i] = words_repeat(uint32_t(seed) + uint32_t(i) * 0x9E3779B9u, 0,
                            uint32_t(seed >> 32) + uint32_t(i) * 0xBB67AE85u, 0);
  }

  // `chains` registers of blocks, `block` and following: independent work for the multiplier's latency. `counter` holds
  // words 1 to 3, and in word 0 the numbers of the blocks within a register.
  template <int chains>
  FP_INLINE_MEMBER void generate(Words counter, uint32_t block, uint32_t* out) const {
    const Words factor = words_repeat(0xD2511F53u, 0, 0xCD9E8D57u, 0);
    Words c[chains];
    for (int i = 0; i < chains; ++i)
      c[i] = counter + (words_repeat(~0u, 0, 0, 0) & (block + uint32_t(i * kWordLanes / 4) - Words{}));
    for (int r = 0; r < rounds; ++r)
      for (int i = 0; i < chains; ++i) {
        const Words odd = (Words)((Pairs)c[i] >> 32);
        c[i] = reverse_quads(multiply_even(c[i], factor)) ^ odd ^ key[r];
      }
    for (int i = 0; i < chains; ++i) __builtin_memcpy(out + i * kWordLanes, &c[i], sizeof c[i]);
  }
};

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
  Words block_numbers = words_repeat(0, 0, uint32_t(a.step), (a.stream << 16) | uint32_t(a.step >> 32 & 0xffff));
  for (int k = 4; k < kWordLanes; k += 4) block_numbers[k] = uint32_t(k / 4);
  for (int64_t i = 0; i < a.n; ++i) {
    const T* x = a.x + i * a.x_row;
    T* y = a.y + i * a.y_row;
    const Words counter = block_numbers + (words_repeat(0, ~0u, 0, 0) & (uint32_t(a.row0 + i) - Words{}));
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
