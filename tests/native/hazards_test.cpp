// network/hazards.hpp against every element: members of a team do random pieces of work on matrices that they share,
// and the books must ask to wait for every piece in which another member has written what one touches now, or touched
// what it writes. Headers alone: tests/test_network_rules.py compiles and runs this file.
#include "network/hazards.hpp"

#include <random>
#include <vector>

#include "checks.hpp"

namespace {

using checks::fail;
using fp::Cut;
using fp::Hazards;
using fp::Range;
using fp::Region;

// What the books ask for, instead of threads that wait.
struct Members {
  int size;
  int64_t marks = 0;
  int waits = 0;
  int64_t finished = -1;         // by all, of the pieces numbered from 0
  std::vector<int64_t> told{0};  // by this member, and so by every other one when it comes there
  void mark(int further = 1) { told.push_back(marks += further); }
  void await(int behind) {
    ++waits;
    // A count that nobody tells would be waited for until a later one, or for ever.
    if (!std::binary_search(told.begin(), told.end(), marks - behind))
      fail("waits for %d, which is not told", int(marks - behind));
    finished = std::max(finished, marks - 2 - behind);
  }
  void barrier() {
    mark();
    await(0);
  }
};

// The last piece in which each member has read and written each element, -1: none.
struct Elements {
  int64_t rows, cols;
  int size;
  std::vector<int64_t> read, written;
  Elements(int64_t r, int64_t c, int s) : rows(r), cols(c), size(s), read(r * c * s, -1), written(r * c * s, -1) {}
  template <class F>
  void each(const Region& region, F&& f) {
    const bool by_one = region == Region::one_member();
    for (int rank = 0; rank < (by_one ? 1 : size); ++rank) {
      const Range r = by_one ? Range{0, rows} : region.rows.of(rank, rows);
      const Range c = by_one ? Range{0, cols} : region.cols.of(rank, cols);
      for (int64_t i = r.begin; i < r.end; ++i)
        for (int64_t j = c.begin; j < c.end; ++j) f((i * cols + j) * size, rank);
    }
  }
  // The last piece that another member must have finished.
  int64_t clash(const Region& region, bool writes) {
    int64_t last = -1;
    each(region, [&](int64_t at, int who) {
      for (int other = 0; other < size; ++other) {
        if (other == who) continue;
        last = std::max(last, written[at + other]);
        if (writes) last = std::max(last, read[at + other]);
      }
    });
    return last;
  }
  void note(const Region& region, bool writes, int64_t piece) {
    each(region, [&](int64_t at, int who) { (writes ? written : read)[at + who] = piece; });
  }
};

// Cuts into down x across parts, as runs use them: only what a team shares out in disjoint parts may be written.
struct Choice {
  Region region;
  bool may_write;
};
std::vector<Choice> choices(int size) {
  std::vector<Choice> all{{Region::all(), false}, {Region::one_member(), true}};
  for (int across = 1; across <= size; ++across) {
    if (size % across) continue;
    const Cut rows(size / across, across, 2), cols(across, 1, 4);
    all.push_back({{rows, cols}, true});
    all.push_back({{rows, {}}, across == 1});
    all.push_back({{{}, cols}, across == size});
    all.push_back({{cols, {}}, across == size});
  }
  all.push_back({{Cut(size, 1, 3), {}}, true});
  all.push_back({{{}, Cut(size, 1, 1)}, true});
  return all;
}

void test_random_work() {
  std::mt19937 random(1);
  int64_t needed = 0, spared = 0, apart = 0;
  for (int trial = 0; trial < 400; ++trial) {
    const int size = 2 + static_cast<int>(random() % 7), things = 1 + static_cast<int>(random() % 4);
    const std::vector<Choice> all = choices(size);
    Hazards books(things, 4);
    Members members{size};
    std::vector<Elements> elements;
    for (int t = 0; t < things; ++t) elements.emplace_back(5 + random() % 30, 5 + random() % 30, size);
    for (int piece = 0; piece < 60; ++piece) {
      struct Access {
        int thing;
        Region region;
        bool writes;
      };
      // A piece of work has to do with one part of a thing, which it may both read and write.
      std::vector<Access> accesses;
      const int first = static_cast<int>(random() % things);
      for (int n = 0; n < std::min(things, 2); ++n) {
        const Choice& c = all[random() % all.size()];
        const int thing = (first + n) % things;
        const bool writes = c.may_write && random() % 2 == 0;
        if (!writes || random() % 2 == 0) accesses.push_back({thing, c.region, false});
        if (writes) accesses.push_back({thing, c.region, true});
      }
      int64_t clash = -1;
      for (const Access& a : accesses) {
        clash = std::max(clash, elements[a.thing].clash(a.region, a.writes));
        if (a.writes)
          books.writes(a.thing, a.region);
        else
          books.reads(a.thing, a.region);
      }
      const int64_t known = members.finished;
      const int before = members.waits;
      books.settle(members);
      if (members.finished < clash) return fail("trial %d, piece %d: does not wait for %d", trial, piece, int(clash));
      needed += clash > known;
      spared += members.waits == before;
      apart += members.waits > before && members.finished < piece - 1;
      for (const Access& a : accesses) elements[a.thing].note(a.region, a.writes, piece);
    }
  }
  if (needed < 1000 || spared < 1000 || apart < 1000)
    fail("one-sided: %lld waits needed, %lld spared, %lld for earlier pieces", static_cast<long long>(needed),
         static_cast<long long>(spared), static_cast<long long>(apart));
}

// Memory that holds another value next: its parts are not those of the value before.
void test_forms() {
  Hazards books(2, 1);
  Members members{2};
  const Region mine{Cut(2, 1, 1), {}};
  books.writes(0, mine, 5);
  books.settle(members);
  books.reads(0, mine, 5);
  books.settle(members);
  if (members.waits != 0) fail("forms: a wait for one's own rows");
  books.writes(0, mine, 7);
  books.settle(members);
  if (members.waits != 1) fail("forms: %d waits for another value", members.waits);
  books.reads(0, mine, 7);
  books.settle(members);
  const int64_t read = members.marks - 1;
  books.reads(1, mine);
  books.settle(members);
  books.writes(0, mine, 5);
  books.settle(members);
  if (members.finished != read) fail("forms: another value overwrites one that is being read");
}

// A member alone never waits.
void test_alone() {
  Hazards books(1, 1);
  Members members{1};
  for (int i = 0; i < 3; ++i) {
    books.writes(0, Region::one_member());
    books.settle(members);
    books.reads(0, Region::all());
    books.settle(members);
  }
  if (members.waits != 0) fail("alone: %d waits", members.waits);
}

// Rounds of the same work are waited in alike when they are repeated without books, also where the first round
// differs from the next ones; and books are kept again after something else.
void test_rounds() {
  const Region rows{Cut(2, 1, 1), {}}, cols{{}, Cut(2, 1, 1)};
  Hazards books(4, 2);
  Members members{2};
  int turn = 0;
  const auto round = [&](bool other) {
    const int before = members.waits;
    books.repeat();
    books.reads(0, Region::all());  // what the round before has written at its end
    books.writes(1, rows);
    books.settle(members);
    books.writes(2 + turn, rows);  // in two places: no wait for those who read it a round ago
    books.settle(members);
    books.reads(1, rows);
    books.settle(members);
    if (other) {
      books.reads(1, cols);
      books.settle(members);
    }
    books.writes(0, cols);
    books.reads(2 + turn, cols);
    books.settle(members);
    turn ^= 1;
    return members.waits - before;
  };
  std::vector<int> counts;
  for (int i = 0; i < 12; ++i) counts.push_back(round(true));
  for (int i = 0; i < 12; ++i)
    if (counts[i] != 2 + (i > 0)) fail("rounds: %d waits in round %d", counts[i], i);
  members.barrier();
  books.forget();
  for (int i = 0; i < 12; ++i) {
    const int count = round(false);
    if (count != 1 + (i > 0)) fail("other rounds: %d waits in round %d", count, i);
  }
}

// Long random rounds, with things exchanged by turns: members who repeat what they know wait for the same pieces as
// members who keep their books for ever.
void test_repeated_rounds() {
  std::mt19937 random(2);
  for (int trial = 0; trial < 200; ++trial) {
    const int size = 2 + static_cast<int>(random() % 3), pieces = 2 + static_cast<int>(random() % 8);
    const std::vector<Choice> all = choices(size);
    struct Access {
      int thing;
      bool by_turns;
      Region region;
      bool writes;
    };
    std::vector<std::vector<Access>> work(pieces);
    for (auto& piece : work)
      for (int thing = 0; thing < 4; ++thing) {
        if (random() % 2) continue;
        const Choice& c = all[random() % all.size()];
        piece.push_back({thing, thing >= 2, c.region, c.may_write && random() % 2 == 0});
      }
    Hazards quick(6, 4), slow(6, 4);
    Members ours{size}, theirs{size};
    const bool meets = random() % 4 == 0;
    for (int round = 0; round < 20; ++round) {
      quick.repeat();
      for (const auto& piece : work) {
        if (meets && &piece == &work[work.size() / 2]) {
          quick.meet(ours);
          slow.meet(theirs);
        }
        for (Hazards* books : {&quick, &slow})
          for (const Access& a : piece) {
            const int thing = a.thing + (a.by_turns && round % 2 ? 2 : 0);
            a.writes ? books->writes(thing, a.region) : books->reads(thing, a.region);
          }
        quick.settle(ours);
        slow.settle(theirs);
        if (ours.finished != theirs.finished || ours.waits != theirs.waits)
          return fail("trial %d: another wait in round %d", trial, round);
      }
    }
  }
}

// Where members do parts of each other's work, all wait for all before each piece of it, until something else begins.
void test_meetings() {
  const Region mine{Cut(3, 1, 1), {}};
  Hazards books(1, 1);
  Members members{3};
  const auto piece = [&] {
    books.repeat();
    books.writes(0, mine);  // nobody else's, as far as the books know
    books.settle(members);
  };
  piece();
  if (members.waits != 0) fail("meetings: a wait for one's own rows");
  books.meet_always();
  for (int i = 1; i <= 9; ++i) {
    piece();
    if (members.waits != i) fail("meetings: %d waits in %d pieces", members.waits, i);
    if (members.finished != members.marks - 2) fail("meetings: does not wait for the piece before");
  }
  books.forget();
  piece();
  if (members.waits != 9) fail("meetings: a wait after they are over");
}

}  // namespace

int main() {
  test_random_work();
  test_forms();
  test_alone();
  test_rounds();
  test_repeated_rounds();
  test_meetings();
  std::printf("%d failures\n", checks::failures);
  return checks::failures ? 1 : 0;
}
