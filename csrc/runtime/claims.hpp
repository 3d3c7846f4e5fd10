// Rows that a team shares out while it runs. Threads may be slowed down, by whatever else runs on their core, or be
// slow by nature, or wake up late: who is done with its own share helps the others.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>

#include "runtime/memory.hpp"
#include "runtime/parallel.hpp"

namespace fp {

class Claims {
 public:
  // [0, n) in a share for each of so many members, at multiples of `grain`. A piece is half of what is left of a share,
  // or all of it if it is less than twice `least`, and `most` rows at most. A single member need not hurry for anybody:
  // its pieces are as large as they may be.
  Claims(int64_t n, int members, int64_t grain, int64_t least, int64_t most)
      : others_(members > 1 ? std::make_unique<Share[]>(static_cast<std::size_t>(members - 1)) : nullptr),
        members_(members),
        grain_(grain),
        small_(members == 1 ? INT64_MAX : 2 * least),
        most_(most) {
    for (int q = 0; q < members; ++q) {
      const Range r = split(n, q, members, grain);
      share(q).next.store(r.begin, std::memory_order_relaxed);
      share(q).end = r.end;
    }
  }

  // A piece that nobody else has: of the member's own share, or of another one's when nothing of its own is left.
  // Empty when all are given away.
  Range next(int rank) {
    for (int q = 0; q < members_; ++q) {
      Share& from = share((rank + q) % members_);
      int64_t at = from.next.load(std::memory_order_relaxed);
      while (at < from.end) {
        const int64_t end = at + piece(from.end - at);
        if (from.next.compare_exchange_weak(at, end, std::memory_order_relaxed)) return {at, end};
      }
    }
    return {0, 0};
  }

 private:
  struct alignas(kAlignment) Share {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };
  Share& share(int q) { return q == 0 ? first_ : others_[static_cast<std::size_t>(q - 1)]; }
  int64_t piece(int64_t left) const {
    return std::min(left < small_ ? left : (left / 2 + grain_ - 1) / grain_ * grain_, most_);
  }

  Share first_;
  std::unique_ptr<Share[]> others_;
  int members_;
  int64_t grain_, small_, most_;
};

}  // namespace fp
