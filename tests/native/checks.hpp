// What the kernels' tests share.
#pragma once

#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "philox.hpp"

namespace checks {

inline int failures = 0;

[[gnu::format(printf, 1, 2)]] inline void fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  if (++failures <= 20) {
    std::vprintf(format, arguments);
    std::putchar('\n');
  }
  va_end(arguments);
}

struct Digest {  // FNV-1a
  uint64_t value = 1469598103934665603u;
  template <class T>
  void add(const std::vector<T>& data) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(data.data());
    for (std::size_t i = 0; i < data.size() * sizeof(T); ++i) value = (value ^ bytes[i]) * 1099511628211u;
  }
};

// Numbers in [-1, 1) with 20 bits, the same everywhere, and exact in float.
template <class T>
std::vector<T> numbers(std::size_t count, uint32_t seed) {
  std::vector<uint32_t> words(count);
  fp::philox_words(seed, 7, 0, int64_t(count), words.data());
  std::vector<T> out(count);
  for (std::size_t i = 0; i < count; ++i) out[i] = T(int64_t(words[i] >> 12) - 524288) / T(524288);
  return out;
}

template <class T>
bool same(T a, T b) {
  return std::memcmp(&a, &b, sizeof a) == 0 || (a != a && b != b);
}

}  // namespace checks
