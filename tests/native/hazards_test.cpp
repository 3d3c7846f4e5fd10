// network/hazards.hpp against every element: members of a team do random pieces of work on matrices that they share,
// and the books must ask for a barrier whenever one member touches what another has written, or writes what another has
// touched, since all last met. Headers alone: tests/test_network_rules.py compiles and runs this file.
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

struct Members {
  int size;
  int barriers = 0;
  void barrier() { ++barriers; }
};

// Who has read and written each element since all last met: a bit for each member.
struct Elements {
  int64_t rows, cols;
  std::vector<unsigned> read, written;
  Elements(int64_t r, int64_t c) : rows(r), cols(c), read(r * c), written(r * c) {}
  void forget() {
    std::fill(read.begin(), read.end(), 0);
    std::fill(written.begin(), written.end(), 0);
  }
  template <class F>
  void each(const Region& region, int size, F&& f) {
    const bool by_one = region == Region::one_member();
    for (int rank = 0; rank < (by_one ? 1 : size); ++rank) {
      const Range r = by_one ? Range{0, rows} : region.rows.of(rank, rows);
      const Range c = by_one ? Range{0, cols} : region.cols.of(rank, cols);
      for (int64_t i = r.begin; i < r.end; ++i)
        for (int64_t j = c.begin; j < c.end; ++j) f(i * cols + j, 1u << rank);
    }
  }
  bool clashes(const Region& region, bool writes, int size) {
    bool found = false;
    each(region, size,
         [&](int64_t at, unsigned who) { found |= (written[at] & ~who) || (writes && (read[at] & ~who)); });
    return found;
  }
  void note(const Region& region, bool writes, int size) {
    each(region, size, [&](int64_t at, unsigned who) { (writes ? written : read)[at] |= who; });
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
  int64_t needed = 0, spared = 0;
  for (int trial = 0; trial < 400; ++trial) {
    const int size = 2 + static_cast<int>(random() % 7), things = 1 + static_cast<int>(random() % 4);
    const std::vector<Choice> all = choices(size);
    Hazards books(things, 4);
    Members members{size};
    std::vector<Elements> elements;
    for (int t = 0; t < things; ++t) elements.emplace_back(5 + random() % 30, 5 + random() % 30);
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
      bool clash = false;
      for (const Access& a : accesses) {
        clash |= elements[a.thing].clashes(a.region, a.writes, size);
        if (a.writes)
          books.writes(a.thing, a.region);
        else
          books.reads(a.thing, a.region);
      }
      const int before = members.barriers;
      books.settle(members);
      const bool met = members.barriers > before;
      if (clash && !met) return fail("trial %d, piece %d: no barrier", trial, piece);
      needed += clash;
      spared += !met;
      if (met)
        for (Elements& e : elements) e.forget();
      for (const Access& a : accesses) elements[a.thing].note(a.region, a.writes, size);
    }
  }
  if (needed < 1000 || spared < 1000)
    fail("one-sided: %lld barriers needed, %lld spared", static_cast<long long>(needed),
         static_cast<long long>(spared));
}

// Memory that holds another value next: its parts are not those of the value before.
void test_forms() {
  Hazards books(1, 1);
  Members members{2};
  const Region mine{Cut(2, 1, 1), {}};
  books.writes(0, mine, 5);
  books.settle(members);
  books.reads(0, mine, 5);
  books.settle(members);
  if (members.barriers != 0) fail("forms: a barrier for one's own rows");
  books.writes(0, mine, 7);
  books.settle(members);
  if (members.barriers != 1) fail("forms: %d barriers for another value", members.barriers);
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
  if (members.barriers != 0) fail("alone: %d barriers", members.barriers);
}

// Rounds of the same work come to the same barriers when they are repeated without books, also where the first round
// differs from the next ones; and books are kept again after something else.
void test_rounds() {
  const Region rows{Cut(2, 1, 1), {}}, cols{{}, Cut(2, 1, 1)};
  Hazards books(3, 2);
  Members members{2};
  const auto round = [&](bool other) {
    const int before = members.barriers;
    books.repeat();
    books.reads(0, Region::all());  // what the round before has written at its end
    books.writes(1, rows);
    books.settle(members);
    books.reads(1, rows);
    books.settle(members);
    if (other) {
      books.reads(1, cols);
      books.settle(members);
    }
    books.writes(0, cols);
    books.settle(members);
    return members.barriers - before;
  };
  std::vector<int> counts;
  for (int i = 0; i < 6; ++i) counts.push_back(round(true));
  if (counts != std::vector<int>{1, 2, 2, 2, 2, 2}) fail("rounds: %d and %d barriers", counts[0], counts[5]);
  books.forget();
  for (int i = 0; i < 6; ++i) {
    const int count = round(false);
    if (count != 1 + (i > 0)) fail("other rounds: %d barriers in round %d", count, i);
  }
}

}  // namespace

int main() {
  test_random_work();
  test_forms();
  test_alone();
  test_rounds();
  std::printf("%d failures\n", checks::failures);
  return checks::failures ? 1 : 0;
}
