#include "runtime/permutation.hpp"

#include <algorithm>
#include <bit>

#include "runtime/dispatch.hpp"
#include "runtime/memory.hpp"

namespace fp {

// The words are spread over about n / 4 buckets by their highest bits, and each bucket is sorted by insertion: random
// words fill buckets evenly, whatever n, and only words that are neighbours in the end are ever compared.
void permutation(uint64_t key, uint32_t stream, uint64_t step, int64_t n, int64_t* out) {
  if (n <= 0) return;
  const int bits = std::bit_width(static_cast<uint64_t>(n - 1));
  const uint64_t low = (uint64_t(1) << bits) - 1;
  const int bucket_bits = std::clamp(bits - 2, 1, 24);
  auto bucket = [&](uint64_t word) { return static_cast<int64_t>(word >> (64 - bucket_bits)); };
  Buffer<uint64_t> words(n);
  Buffer<int64_t> start((int64_t(1) << bucket_bits) + 1);
  constexpr int64_t together = 1024;  // pairs of 32-bit words
  uint32_t drawn[2 * together];
  for (int64_t i = 0; i < n; i += together) {
    const int64_t count = std::min(together, n - i);
    table().random_words(key, stream, step, i / 2, 2 * count, drawn);
    for (int64_t j = 0; j < count; ++j) {
      const uint64_t word = drawn[2 * j] | uint64_t(drawn[2 * j + 1]) << 32;
      words[i + j] = (word & ~low) | static_cast<uint64_t>(i + j);
      ++start[bucket(word & ~low) + 1];
    }
  }
  for (int64_t b = 1; b < start.size(); ++b) start[b] += start[b - 1];
  // The order in which equal buckets are filled does not matter: no two words are equal.
  for (int64_t i = 0; i < n; ++i) out[start[bucket(words[i])]++] = static_cast<int64_t>(words[i]);
  for (int64_t b = 0, first = 0; b + 1 < start.size(); first = start[b++])
    for (int64_t i = first + 1; i < start[b]; ++i) {
      const uint64_t word = static_cast<uint64_t>(out[i]);
      int64_t j = i;
      for (; j > first && static_cast<uint64_t>(out[j - 1]) > word; --j) out[j] = out[j - 1];
      out[j] = static_cast<int64_t>(word);
    }
  for (int64_t i = 0; i < n; ++i) out[i] &= static_cast<int64_t>(low);
}

}  // namespace fp
