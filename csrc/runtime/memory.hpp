// Aligned, zeroed, move-only storage. The only place in csrc/ outside bindings/ that allocates bulk memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace fp {

inline constexpr std::size_t kAlignment = 64;

// Rows whose beginnings lie a multiple of this apart fall into the same few cache sets, those that a product reads
// together as well.
inline constexpr std::size_t kCrowded = 16 * kAlignment;

// Large ones where the system grants them; small ones for memory much of which may never be used.
enum class Pages { large, small };

// Asks the system for its large pages: where many small ones are in use, looking up where they lie takes as much time
// as reading from them. Whether it grants them changes nothing else.
inline void prefer_large_pages([[maybe_unused]] void* block, [[maybe_unused]] std::size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr std::size_t worth = std::size_t{4} << 20;
  if (bytes < worth) return;
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<std::uintptr_t>(block) + page - 1) / page * page;
  const auto end = (reinterpret_cast<std::uintptr_t>(block) + bytes) / page * page;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t count, Pages pages = Pages::large) : count_(count) {
    if (count <= 0) return;
    if (static_cast<std::uint64_t>(count) > SIZE_MAX / sizeof(T) - 2 * kAlignment) throw std::bad_alloc();
    std::size_t bytes = (static_cast<std::size_t>(count) * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    // calloc's large blocks are zeroed page by page when first used: by the threads that use them, between two looks at
    // Ctrl-C, instead of here in one go.
    block_ = std::calloc(1, bytes + kAlignment);
    if (!block_) throw std::bad_alloc();
    if (pages == Pages::large) prefer_large_pages(block_, bytes + kAlignment);
    const auto at = (reinterpret_cast<std::uintptr_t>(block_) + kAlignment - 1) / kAlignment * kAlignment;
    data_ = reinterpret_cast<T*>(at);
  }
  ~Buffer() { reset(); }
  Buffer(Buffer&& o) noexcept
      : block_(std::exchange(o.block_, nullptr)),
        data_(std::exchange(o.data_, nullptr)),
        count_(std::exchange(o.count_, 0)) {}
  Buffer& operator=(Buffer&& o) noexcept {
    if (this != &o) {
      reset();
      block_ = std::exchange(o.block_, nullptr);
      data_ = std::exchange(o.data_, nullptr);
      count_ = std::exchange(o.count_, 0);
    }
    return *this;
  }
  T* data() { return data_; }
  const T* data() const { return data_; }
  int64_t size() const { return count_; }
  T& operator[](int64_t i) { return data_[i]; }
  const T& operator[](int64_t i) const { return data_[i]; }

 private:
  void reset() {
    std::free(block_);
    block_ = nullptr;
    data_ = nullptr;
    count_ = 0;
  }
  void* block_ = nullptr;
  T* data_ = nullptr;
  int64_t count_ = 0;
};

}  // namespace fp
