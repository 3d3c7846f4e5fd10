// Who of a team reads and writes what, so that its members wait for each other where one needs what another made, and
// nowhere else. All of them keep the same books, each its own, and so wait for each other at the same places.
#pragma once

#include <algorithm>
#include <bitset>
#include <cassert>
#include <cstdint>
#include <utility>

#include "runtime/memory.hpp"
#include "runtime/parallel.hpp"

namespace fp {

// How one dimension is shared by a team: member t has part t / stride % parts of it, borders at multiples of grain.
// In one word, as small steps compare many of them.
class Cut {
 public:
  constexpr Cut() : word_(kWhole) {}  // not at all
  constexpr Cut(int parts, int stride, int64_t grain)
      : word_(parts == 1 ? kWhole
                         : static_cast<uint32_t>(parts) | static_cast<uint32_t>(stride) << 11 |
                               static_cast<uint32_t>(grain) << 22) {
    assert(0 <= parts && parts < 1 << 11 && 0 <= stride && stride < 1 << 11 && 0 < grain && grain < 1 << 10);
  }
  bool operator==(const Cut&) const = default;
  int parts() const { return static_cast<int>(word_ & 0x7ff); }
  Range of(int rank, int64_t n) const {
    if (parts() == 1) return {0, n};
    const int stride = static_cast<int>(word_ >> 11 & 0x7ff);
    return split(n, (stride == 1 ? rank : rank / stride) % parts(), parts(), word_ >> 22);
  }

 private:
  static constexpr uint32_t kWhole = 1;
  uint32_t word_;
};

// What each member has of a matrix.
struct Region {
  Cut rows, cols;
  bool operator==(const Region&) const = default;
  // All of it, and what only one member has to do with.
  static constexpr Region all() { return {}; }
  static constexpr Region one_member() { return {Cut(0, 1, 1), Cut(0, 1, 1)}; }

  // Whether every member's part lies within its own part of `other`.
  bool within(Region other) const {
    return (other.rows == Cut() || rows == other.rows) && (other.cols == Cut() || cols == other.cols);
  }
};

// The numbers of what a run's threads share.
struct Things {
  int64_t values, parameters, operations;

  int64_t value(int v) const { return v; }
  int64_t gradient(int v) const { return values + v; }
  int64_t parameter(int p) const { return 2 * values + p; }
  int64_t sum(int p) const { return 2 * values + parameters + p; }  // a parameter's gradient
  int64_t operands(int i) const { return 2 * values + 2 * parameters + i; }
  // Some of these have two places, for every other step.
  enum Common { targets, losses, block_sums, verdict, second_verdict, count_of_common };
  int64_t common(Common c, int turn = 0) const { return operands(0) + operations + 2 * c + turn; }
  int64_t count() const { return common(count_of_common); }
};

// Pieces of work are numbered, alike by all members. What one member does in a piece must not begin before the others
// have finished the last piece in which they did what it conflicts with: it waits for that and no more, so that members
// may be several pieces apart. Each on lines of its own, and away from what is fetched along with another's.
class alignas(256) Hazards {
 public:
  // things: how many there are to keep books of; together: of how many accesses a piece of work may consist.
  Hazards(int64_t things, int64_t together) : records_(things), pending_(together) {}

  // What the next piece of work does. Things are numbered; form: of what has several in the same memory, in which parts
  // lie elsewhere.
  void reads(int64_t thing, Region region, int form = 0) {
    if (!repeating_) pending_[count_++] = {static_cast<int32_t>(thing), form, region, false};
  }
  void writes(int64_t thing, Region region, int form = 0) {
    if (!repeating_) pending_[count_++] = {static_cast<int32_t>(thing), form, region, true};
  }

  // Before that piece of work: waits for what it needs of the others.
  template <class Members>  // a Team, but for tests
  void settle(Members& team) {
    if (meeting_) meet(team);
    if (meeting_ || team.size == 1) {
      count_ = 0;
      return;
    }
    ++piece_;
    ++untold_;
    if (!repeating_ || awaited_[settled_]) team.mark(std::exchange(untold_, 0));
    int behind = kNoWait;  // how many pieces the others may be behind
    if (repeating_) {
      behind = waits_.behind[settled_];
    } else {
      int64_t last = finished_;
      for (int64_t i = 0; i < count_; ++i) last = std::max(last, last_conflict(pending_[i]));
      if (last > finished_) behind = static_cast<int>(piece_ - 1 - last);
      if (settled_ < kMostSettled) waits_.behind[settled_] = static_cast<int16_t>(std::min<int>(behind, INT16_MAX));
      finished_ = last;
    }
    ++settled_;
    if (behind != kNoWait) team.await(behind - untold_);  // the team counts from what this member has told
    for (int64_t i = 0; i < count_; ++i) note(pending_[i]);
    count_ = 0;
  }
  // All wait for all.
  template <class Members>
  void meet(Members& team) {
    ++piece_;
    if (team.size > 1) {
      team.mark(std::exchange(untold_, 0) + 1);
      team.await(0);
    }
    finished_ = piece_ - 1;
  }

  // From now on, until something else begins, all wait for all before each piece of work: members do parts of others'.
  void meet_always() { meeting_ = true; }

  // Another round begins of the same pieces of work as the last one, or with things exchanged by turns. What a member
  // waits for follows from what was done in pieces that others may not have finished. When these are of the last two
  // rounds at most, and members have waited alike in three rounds, then so they do in all rounds from then on, without
  // any books.
  void repeat() {
    if (meeting_) return;
    if (!repeating_) {
      waits_.places = settled_;
      const bool regular = ++rounds_ > 3 && settled_ <= kMostSettled && finished_ >= previous_ && waits_ == before_;
      regular_ = regular ? regular_ + 1 : 0;
      previous_ = std::exchange(begun_, piece_);
      if (regular_ < 2)
        before_ = std::exchange(waits_, {});
      else
        start_repeating();
    }
    settled_ = 0;
  }
  // Something else begins. All members have met, or meet before they go on.
  void forget() {
    finished_ = begun_ = previous_ = piece_;
    repeating_ = meeting_ = false;
    rounds_ = regular_ = settled_ = untold_ = 0;
    count_ = 0;
    waits_ = {};
  }

 private:
  struct Access {
    int32_t thing, form;
    Region region;
    bool writes;
  };
  struct Record {
    int64_t written = 0, read = 0;  // in which piece, last
    int32_t form = 0;
    bool alike = false;  // all reads that count were within `reader`
    Region writer, reader;
  };

  // Others are told only of the places that they wait for: they read it from a line that has to come back each time.
  void start_repeating() {
    repeating_ = true;
    awaited_ = {};
    for (int i = 0; i < waits_.places; ++i)
      if (const int behind = waits_.behind[i]; behind != kNoWait)
        awaited_.set(static_cast<std::size_t>(((i - behind) % waits_.places + waits_.places) % waits_.places));
  }

  // The last piece that this access must not overtake; 0: none.
  int64_t last_conflict(const Access& a) const {
    const Record& r = records_[a.thing];
    if (r.form != a.form) return std::max(r.written, r.read);
    int64_t last = 0;
    if (!(a.region.within(r.writer) && (!a.writes || r.writer.within(a.region)))) last = r.written;
    if (a.writes && !(r.alike && r.reader.within(a.region))) last = std::max(last, r.read);
    return last;
  }
  // After the wait for all that it conflicts with.
  void note(const Access& a) {
    Record& r = records_[a.thing];
    r.form = a.form;
    if (a.writes) {
      r.written = piece_;
      r.writer = a.region;
      return;
    }
    if (r.read <= finished_ || (r.alike && r.reader.within(a.region))) {
      r.alike = true;
      r.reader = a.region;
    } else if (!a.region.within(r.reader)) {
      r.alike = false;
    }
    r.read = piece_;
  }

  static constexpr int kNoWait = -1, kMostSettled = 256;
  // At a round's places.
  struct Waits {
    int16_t behind[kMostSettled] = {};
    int places = 0;
    bool operator==(const Waits&) const = default;
  };
  Waits waits_, before_;
  std::bitset<kMostSettled> awaited_;
  int rounds_ = 0, regular_ = 0, settled_ = 0;
  int untold_ = 0;  // pieces begun that the others do not know of
  bool repeating_ = false, meeting_ = false;

  Buffer<Record> records_;
  Buffer<Access> pending_;
  int64_t count_ = 0;
  // The piece at hand, and the last one that all others are known to have finished; where this round and the one before
  // began.
  int64_t piece_ = 0, finished_ = 0, begun_ = 0, previous_ = 0;
};

}  // namespace fp
