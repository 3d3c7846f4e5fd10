// Work that a team shares out while it runs. Threads may be slowed down, by whatever else runs on their core, or be
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
  // How a share is taken to pieces: at multiples of `grain` from `origin`, each half of what is left, or all of it if
  // that is less than twice `least`, and `most` at most.
  struct Pieces {
    int64_t grain = 1, least = 1, most = INT64_MAX, origin = 0;
  };
  struct Piece {
    Range range;
    int of;  // whose share it is from
  };

  // Nobody has a share yet.
  explicit Claims(int members)
      : others_(members > 1 ? std::make_unique<Share[]>(static_cast<std::size_t>(members - 1)) : nullptr),
        members_(members) {}
  // [0, n) in a share for each of so many members. A single one need not hurry for anybody: its pieces are as large as
  // they may be.
  Claims(int64_t n, int members, Pieces pieces) : Claims(members) {
    if (members == 1) pieces.least = INT64_MAX / 2;
    for (int q = 0; q < members; ++q) give(q, split(n, q, members, pieces.grain), pieces);
  }

  // By one thread, before all meet who call next.
  void give(int rank, Range range, Pieces pieces) {
    Share& own = share(rank);
    own.next.store(range.begin, std::memory_order_relaxed);
    own.end = range.end;
    own.pieces = pieces;
  }

  // A piece that nobody else has: of the member's own share, or of another one's when nothing of its own is left. Empty
  // when all are given away. members: how many there are, if not all that there is room for.
  Piece next(int rank) { return next(rank, members_); }
  Piece next(int rank, int members) {
    for (int q = rank, i = 0; i < members; ++i, q = q + 1 < members ? q + 1 : 0) {
      Share& from = share(q);
      int64_t at = from.next.load(std::memory_order_relaxed);
      while (at < from.end) {
        const int64_t end = at + from.piece(at);
        if (from.next.compare_exchange_weak(at, end, std::memory_order_relaxed)) return {{at, end}, q};
      }
    }
    return {{0, 0}, rank};
  }

 private:
  struct alignas(kAlignment) Share {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
    Pieces pieces;
    int64_t piece(int64_t at) const {
      const auto [grain, least, most, origin] = pieces;
      const int64_t left = end - at, middle = (at + left / 2 - origin + grain - 1) / grain * grain + origin;
      return std::min(left / 2 < least ? left : middle - at, most);
    }
  };
  Share& share(int q) { return q == 0 ? first_ : others_[static_cast<std::size_t>(q - 1)]; }

  Share first_;
  std::unique_ptr<Share[]> others_;
  int members_;
};

}  // namespace fp
