// Who of a team reads and writes what, so that its members wait for each other where one needs what another made, and
// nowhere else. All of them keep the same books, each its own, and so come to the same barriers.
#pragma once

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
                               static_cast<uint32_t>(grain) << 22) {}
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

// Each on lines of its own, and away from what is fetched along with another's.
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

  // Before that piece of work: waits for the others if it needs what they have done since all last met.
  template <class Members>  // a Team, but for tests
  void settle(Members& team) {
    if (team.size == 1) {
      count_ = 0;
      return;
    }
    const bool known = settled_ < kMostSettled;
    bool wait = false;
    if (repeating_) {
      wait = waits_.has(settled_);
    } else {
      for (int64_t i = 0; i < count_; ++i) wait |= conflicts(pending_[i]);
      if (wait && known) waits_.add(settled_);
    }
    ++settled_;
    if (wait) meet(team);
    for (int64_t i = 0; i < count_; ++i) note(pending_[i]);
    count_ = 0;
  }
  template <class Members>
  void meet(Members& team) {
    if (team.size > 1) team.barrier();
    ++epoch_;
  }

  // Another round begins of the same pieces of work as the last one, or with things exchanged by turns. All meet at
  // least once in a round, so that what has happened since then is the same after two rounds in which they met at the
  // same places, and so are all rounds from then on, without any books.
  void repeat() {
    repeating_ = repeating_ || (rounds_ >= 2 && settled_ <= kMostSettled && waits_ == before_);
    if (!repeating_) {
      before_ = std::exchange(waits_, {});
      ++rounds_;
    }
    settled_ = 0;
  }
  // Something else begins. All members have met, or meet before they go on.
  void forget() {
    ++epoch_;
    repeating_ = false;
    rounds_ = settled_ = 0;
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
    uint32_t epoch = 0;  // of what stands here; nothing does when it is another one
    int32_t form = 0;
    bool written = false;
    enum Readers : char { nobody, alike, differently } read = nobody;
    Region writer, reader;
  };

  bool conflicts(const Access& a) const {
    const Record& r = records_[a.thing];
    if (r.epoch != epoch_) return false;
    if (r.form != a.form) return true;
    if (r.written && !(a.region.within(r.writer) && (!a.writes || r.writer.within(a.region)))) return true;
    return a.writes && (r.read == Record::differently || (r.read == Record::alike && !r.reader.within(a.region)));
  }
  void note(const Access& a) {
    Record& r = records_[a.thing];
    if (r.epoch != epoch_) r = {epoch_, a.form, false, Record::nobody, {}, {}};
    if (a.writes) {
      r.written = true;
      r.writer = a.region;
    } else if (r.read == Record::nobody || (r.read == Record::alike && r.reader.within(a.region))) {
      r.read = Record::alike;
      r.reader = a.region;
    } else if (!a.region.within(r.reader)) {
      r.read = Record::differently;
    }
  }

  // At which of a round's places all have met.
  static constexpr int kMostSettled = 256;
  struct Places {
    uint64_t bits[kMostSettled / 64] = {};
    bool operator==(const Places&) const = default;
    bool has(int i) const { return bits[i / 64] >> i % 64 & 1; }
    void add(int i) { bits[i / 64] |= uint64_t(1) << i % 64; }
  };
  Places waits_, before_;
  int rounds_ = 0, settled_ = 0;
  bool repeating_ = false;

  Buffer<Record> records_;
  Buffer<Access> pending_;
  int64_t count_ = 0;
  uint32_t epoch_ = 1;
};

}  // namespace fp
