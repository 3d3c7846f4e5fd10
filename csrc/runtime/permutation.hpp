// A random order of 0, ..., n - 1: the same as random.permutation in Python, where the definition stands.
#pragma once

#include <cstdint>

namespace fp {

// out: n elements. May throw std::bad_alloc, before anything is written.
void permutation(uint64_t key, uint32_t stream, uint64_t step, int64_t n, int64_t* out);

}  // namespace fp
