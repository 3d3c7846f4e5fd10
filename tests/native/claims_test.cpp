// runtime/claims.hpp: rows are given away once each whoever asks when, and a slow thread does not hold the others up.
#include "runtime/claims.hpp"

#include <thread>

#include "checks.hpp"

namespace {

using checks::fail;
using fp::Claims;
using fp::Range;

// Members with a speed each, in rows per second, ask as they get done. The time until the last one is.
double simulated(int64_t n, const std::vector<double>& speeds, int64_t least, int64_t most) {
  const int members = static_cast<int>(speeds.size());
  constexpr int64_t grain = 8;
  Claims claims(n, members, {grain, least, most});
  std::vector<double> at(speeds.size(), 0.0);
  std::vector<bool> done(speeds.size(), false);
  std::vector<int> given(static_cast<std::size_t>(n), 0);
  for (int left = members; left > 0;) {
    std::size_t who = 0;
    while (done[who]) ++who;
    for (std::size_t q = who; q < speeds.size(); ++q)
      if (!done[q] && at[q] < at[who]) who = q;
    const auto [r, of] = claims.next(static_cast<int>(who));
    if (r.size() <= 0) {
      done[who] = true;
      --left;
      continue;
    }
    if (r.begin < 0 || r.end > n || r.size() > most || r.begin % grain != 0)
      fail("[%ld, %ld) of %ld, at most %ld", long(r.begin), long(r.end), long(n), long(most));
    if (const Range share = fp::split(n, of, members, grain); r.begin < share.begin || r.end > share.end)
      fail("[%ld, %ld) is not of the share of %d", long(r.begin), long(r.end), of);
    for (int64_t i = r.begin; i < r.end; ++i) ++given[static_cast<std::size_t>(i)];
    at[who] += static_cast<double>(r.size()) / speeds[who];
  }
  for (int64_t i = 0; i < n; ++i)
    if (given[static_cast<std::size_t>(i)] != 1)
      fail("row %ld of %ld given %d times", long(i), long(n), given[static_cast<std::size_t>(i)]);
  return *std::max_element(at.begin(), at.end());
}

void every_row_once() {
  for (int64_t n : {0, 1, 7, 8, 9, 100, 127, 128, 129, 255, 256, 257, 1000, 5000})
    for (int members : {1, 2, 3, 5, 16})
      for (int64_t least : {8, 32, 128}) {
        std::vector<double> speeds;
        for (int q = 0; q < members; ++q) speeds.push_back(1.0 / (1 + q % 3));
        simulated(n, speeds, least, 2 * least);
        simulated(n, speeds, least, 1024);
      }
}

// Static shares would take as long as the slowest member with its own.
void the_slow_are_helped() {
  const auto expect = [](const char* what, double seconds, double most) {
    if (seconds > most) fail("%s: %.0f s, expected at most %.0f", what, seconds, most);
  };
  expect("alike", simulated(4096, {1, 1}, 128, 512), 2048);
  expect("a third as fast", simulated(4096, {1, 1.0 / 3}, 128, 512), 3072 + 3 * 255);       // at best 3072; shares 6144
  expect("two of each kind", simulated(8192, {1, 1, 0.5, 0.5}, 128, 512), 2731 + 2 * 255);  // shares 4096
}

// Shares that their members give, anew for each piece of work, perhaps fewer than there is room for; pieces end at
// multiples of their grain from 0, or from where the share begins.
void shares_given() {
  constexpr int64_t grain = 4;
  Claims claims(5);
  if (claims.next(3).range.size() != 0) fail("a piece of nothing");
  for (bool from_zero : {true, false})
    for (int members : {5, 2, 1, 3}) {
      const auto share = [](int q) { return Range{10 * q, 10 * q + 6 + q}; };
      const auto origin = [&](int q) { return from_zero ? 0 : share(q).begin; };
      for (int q = 0; q < members; ++q) claims.give(q, share(q), {grain, grain, INT64_MAX, origin(q)});
      int64_t rows = 0;
      for (;;) {
        const auto [r, of] = claims.next(members - 1, members);
        if (r.size() == 0) break;
        if (of >= members || r.begin < share(of).begin || r.end > share(of).end)
          fail("[%ld, %ld) of %d of %d", long(r.begin), long(r.end), of, members);
        if (r.end != share(of).end && (r.end - origin(of)) % grain != 0) fail("a piece up to %ld", long(r.end));
        rows += r.size();
      }
      if (rows != 6 * members + members * (members - 1) / 2) fail("%ld rows of %d members", long(rows), members);
      // What is left of another time's shares is nobody's.
      claims.give(0, {0, 100}, {grain, grain});
    }
}

// Threads that ask at the same time.
void at_once() {
  constexpr int64_t n = 4096;
  for (int round = 0; round < 50; ++round) {
    Claims claims(n, 3, {8, 16, 64});
    std::vector<std::atomic<int>> given(n);
    const auto take = [&](int rank) {
      for (Range r = claims.next(rank).range; r.size() > 0; r = claims.next(rank).range)
        for (int64_t i = r.begin; i < r.end; ++i) ++given[static_cast<std::size_t>(i)];
    };
    std::thread one(take, 1), two(take, 2);
    take(0);
    one.join();
    two.join();
    for (const auto& times : given)
      if (times != 1) fail("a row given %d times", times.load());
  }
}

}  // namespace

int main() {
  every_row_once();
  the_slow_are_helped();
  shares_given();
  at_once();
  std::printf("%d failures\n", checks::failures);
  return checks::failures != 0;
}
