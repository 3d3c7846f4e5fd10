// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011),
// a word at a time: what the kernels' words are compared with, and the tests' own numbers.
#pragma once

#include <cstdint>

namespace fp {

struct Philox4 {
  uint32_t v[4];
};

inline Philox4 philox4x32(Philox4 c, uint32_t k0, uint32_t k1) {
  for (int round = 0; round < 10; ++round) {
    uint64_t p0 = uint64_t(0xD2511F53u) * c.v[0];
    uint64_t p1 = uint64_t(0xCD9E8D57u) * c.v[2];
    c = {{uint32_t(p1 >> 32) ^ c.v[1] ^ k0, uint32_t(p1), uint32_t(p0 >> 32) ^ c.v[3] ^ k1, uint32_t(p0)}};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

// out[4 i + w] = word w of the block with counter (b, b >> 32, step & 0xffffffff, (stream << 16) | (step >> 32 &
// 0xffff)), b = first + i.
inline void philox_words(uint64_t key, uint32_t stream, uint64_t step, int64_t count, uint32_t* out,
                         int64_t first = 0) {
  for (int64_t i = 0; i * 4 < count; ++i) {
    const uint64_t b = static_cast<uint64_t>(first + i);
    Philox4 r =
        philox4x32({{uint32_t(b), uint32_t(b >> 32), uint32_t(step), (stream << 16) | uint32_t(step >> 32 & 0xffff)}},
                   uint32_t(key), uint32_t(key >> 32));
    for (int w = 0; w < 4 && i * 4 + w < count; ++w) out[i * 4 + w] = r.v[w];
  }
}

}  // namespace fp
