#include "network/row_source.hpp"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <type_traits>

#include "runtime/fpstate.hpp"
#include "runtime/memory.hpp"

namespace fp {

namespace {

constexpr int64_t kFetchedAhead = 16384;  // bytes

struct Half {
  uint16_t bits;
  // Without branches, so that compilers make vectors of it, and without subnormal floats, which may count as zero here.
  float value() const {
    const uint32_t magnitude = bits & 0x7fffu, exponent = magnitude >> 10;
    const float tiny = static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f;  // where the exponent is 0
    const uint32_t rebiased = (magnitude << 13) + (exponent == 31 ? 224u << 23 : 112u << 23);
    const uint32_t v = exponent == 0 ? std::bit_cast<uint32_t>(tiny) : rebiased;
    return std::bit_cast<float>(v | (bits & 0x8000u) << 16);
  }
};

struct Bool {
  uint8_t bits;
};

// Loads through memcpy: the caller's memory may be misaligned.
template <class S, class T>
T load_as(const char* p) {
  S s;
  std::memcpy(&s, p, sizeof(S));
  if constexpr (std::is_same_v<S, Half>) {
    return static_cast<T>(s.value());
  } else if constexpr (std::is_same_v<S, Bool>) {
    return static_cast<T>(s.bits != 0);
  } else if constexpr (std::is_floating_point_v<S> && std::is_integral_v<T>) {
    // Labels come as integers; a float here is a caller's mistake, and an out-of-range cast is undefined.
    return s >= S(0) && s < S(9e15) ? static_cast<T>(s) : T(-1);
  } else {
    return static_cast<T>(s);
  }
}

template <class S, class T>
void copy_row(const char* from, int64_t step, int64_t cols, T* to) {
  if constexpr (std::is_same_v<S, T>) {
    if (step == static_cast<int64_t>(sizeof(S))) {
      std::memcpy(to, from, static_cast<std::size_t>(cols) * sizeof(S));
      return;
    }
  }
  if (step == static_cast<int64_t>(sizeof(S))) {
    for (int64_t j = 0; j < cols; ++j) to[j] = load_as<S, T>(from + j * static_cast<int64_t>(sizeof(S)));
    return;
  }
  for (int64_t j = 0; j < cols; ++j) to[j] = load_as<S, T>(from + j * step);
}

template <class T>
using RowCopy = void (*)(const char*, int64_t, int64_t, T*);

template <class T>
RowCopy<T> row_copy(Element e) {
  switch (e) {
    case Element::b1:
      return copy_row<Bool, T>;
    case Element::i8:
      return copy_row<int8_t, T>;
    case Element::i16:
      return copy_row<int16_t, T>;
    case Element::i32:
      return copy_row<int32_t, T>;
    case Element::i64:
      return copy_row<int64_t, T>;
    case Element::u8:
      return copy_row<uint8_t, T>;
    case Element::u16:
      return copy_row<uint16_t, T>;
    case Element::u32:
      return copy_row<uint32_t, T>;
    case Element::u64:
      return copy_row<uint64_t, T>;
    case Element::f16:
      return copy_row<Half, T>;
    case Element::f32:
      return copy_row<float, T>;
    case Element::f64:
      return copy_row<double, T>;
  }
  return nullptr;
}

}  // namespace

template <class T>
void DenseSource::gather_as(const int64_t* index, int64_t begin, int64_t count, T* out, int64_t out_row) const {
  const RowCopy<T> copy = row_copy<T>(element);
  // What is subnormal in one type may be normal in the other: converted here as by NumPy, for a predictor.
  std::optional<FpState> exact;
  if (std::is_floating_point_v<T> && element == (sizeof(T) == sizeof(float) ? Element::f64 : Element::f32))
    exact.emplace(FpState::gradual());
  // Rows in any order are out of reach of hardware prefetchers: some KiB of those to come are fetched ahead.
  // Consecutive rows without gaps on either side are one long row.
  if (!index && out_row == cols && row_bytes == col_bytes * cols)
    return copy(data + begin * row_bytes, col_bytes, cols * count, out);
  const int64_t extent = std::abs(col_bytes) * cols, ahead = std::clamp<int64_t>(kFetchedAhead / (extent + 1), 1, 32);
  for (int64_t i = 0; i < count; ++i) {
    if (index && extent <= kFetchedAhead && i + ahead < count) {
      const char* next = data + index[begin + i + ahead] * row_bytes + (col_bytes < 0 ? col_bytes * (cols - 1) : 0);
      for (int64_t b = 0; b < extent; b += 64) __builtin_prefetch(next + b, 0, 2);
    }
    const int64_t row = index ? index[begin + i] : begin + i;
    copy(data + row * row_bytes, col_bytes, cols, out + i * out_row);
  }
}

void DenseSource::gather(const int64_t* index, int64_t begin, int64_t count, float* out, int64_t out_row) const {
  gather_as(index, begin, count, out, out_row);
}

void DenseSource::gather(const int64_t* index, int64_t begin, int64_t count, double* out, int64_t out_row) const {
  gather_as(index, begin, count, out, out_row);
}

void DenseSource::gather(const int64_t* index, int64_t begin, int64_t count, int64_t* out, int64_t out_row) const {
  gather_as(index, begin, count, out, out_row);
}

template <class T>
RowsInPlace<T> DenseSource::in_place(Element same) const {
  constexpr auto size = static_cast<int64_t>(sizeof(T));
  const bool whole = row_bytes % size == 0 && reinterpret_cast<std::uintptr_t>(data) % sizeof(T) == 0;
  if (element != same || col_bytes != size || !whole || row_bytes < cols * size) return {};
  if (row_bytes % static_cast<int64_t>(kCrowded) == 0) return {};
  return {reinterpret_cast<const T*>(data), row_bytes / size};
}

void DenseSource::find(RowsInPlace<float>& rows) const { rows = in_place<float>(Element::f32); }
void DenseSource::find(RowsInPlace<double>& rows) const { rows = in_place<double>(Element::f64); }

template <class T>
void SideBySide::gather_as(const int64_t* index, int64_t begin, int64_t count, T* out, int64_t out_row) const {
  for (const RowSource* part : parts_) {
    part->gather(index, begin, count, out, out_row);
    out += part->cols;
  }
}

void SideBySide::gather(const int64_t* index, int64_t begin, int64_t count, float* out, int64_t out_row) const {
  gather_as(index, begin, count, out, out_row);
}

void SideBySide::gather(const int64_t* index, int64_t begin, int64_t count, double* out, int64_t out_row) const {
  gather_as(index, begin, count, out, out_row);
}

void SideBySide::gather(const int64_t* index, int64_t begin, int64_t count, int64_t* out, int64_t out_row) const {
  gather_as(index, begin, count, out, out_row);
}

}  // namespace fp
