// Random words: Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011) on
// vectors.
#pragma once

#include <cstddef>

#include "kernels/simd.hpp"

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

// The counter (0, 0, step & 0xffffffff, (stream << 16) | (step >> 32 & 0xffff)) and those of the blocks after it in a
// register; and the same with another second word, which is 0 in it.
FP_INLINE Words first_counter(uint32_t stream, uint64_t step) {
  Words counter = words_repeat(0, 0, uint32_t(step), (stream << 16) | uint32_t(step >> 32 & 0xffff));
  for (int k = 4; k < kWordLanes; k += 4) counter[k] = uint32_t(k / 4);
  return counter;
}
FP_INLINE Words with_second(Words counter, uint32_t second) {
  return counter + (words_repeat(0, ~0u, 0, 0) & (second - Words{}));
}

static void random_words(uint64_t key, uint32_t stream, uint64_t step, int64_t first, int64_t count, uint32_t* out) {
  const Philox philox(key);
  const Words counter = first_counter(stream, step);
  constexpr int64_t chunk = 4 * kWordLanes;
  for (int64_t i = 0; i < count; i += chunk) {
    const uint64_t block = uint64_t(first + i / 4);
    const Words from = with_second(counter, uint32_t(block >> 32));
    if (count - i >= chunk) {
      philox.generate<4>(from, uint32_t(block), out + i);
    } else {
      uint32_t words[chunk];
      philox.generate<4>(from, uint32_t(block), words);
      __builtin_memcpy(out + i, words, sizeof(uint32_t) * std::size_t(count - i));
    }
  }
}

}  // namespace fp::FP_ISA_NAMESPACE
