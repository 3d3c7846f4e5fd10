// network/pace.hpp over machines that only exist as formulas: how long a step takes on so many threads, at each moment.
// A header alone: tests/test_network_rules.py compiles and runs this file.
#include "network/pace.hpp"

#include <cmath>
#include <functional>
#include <tuple>

#include "checks.hpp"

namespace {

using checks::fail;
using fp::Pace;
using Clock = Pace::Clock;

struct Machine {
  std::function<double(int threads, double at)> step;  // seconds
  double wake = 0;  // what a team's first step takes longer when its threads sleep, and in part the next two
  int64_t rows = 32;
  double flop = 1e6;
  int worth = 1, allowed = 8;

  Pace pace{};
  double time = 0;                // seconds since the beginning
  double spent[65] = {};          // seconds on each number of threads
  int64_t trials = 0, steps = 0;  // of all stretches
  int last = 0;                   // threads of the last stretch that was no trial
  double team_until = -1;         // when a team last ran

  Clock::time_point now() const {
    return Clock::time_point(std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(time)));
  }
  void run(double seconds) {
    const double end = time + seconds;
    while (time < end) {
      const auto left = static_cast<int64_t>((end - time) / step(1, time)) + 1;
      const Pace::Stretch stretch = pace.next(rows, flop, worth, allowed, left, now());
      if (stretch.threads < 1 || stretch.threads > std::max(worth, allowed)) {
        fail("%d threads, of %d allowed", stretch.threads, allowed);
        return;
      }
      const double begin = time;
      double first = time;
      int64_t taken = 0;
      const bool asleep = stretch.threads > 1 && time - team_until > 1e-3;
      while (taken < stretch.steps && now() < stretch.end && (time < end || stretch.trial)) {
        time += step(stretch.threads, time) + (asleep && taken < 3 ? wake / static_cast<double>(1 + 9 * taken) : 0);
        if (++taken == stretch.left_out) first = time;
      }
      if (stretch.threads > 1) team_until = time;
      pace.note(stretch, taken - stretch.left_out, time - first, now());
      spent[stretch.threads] += time - begin;
      steps += taken;
      trials += stretch.trial;
      if (!stretch.trial) last = stretch.threads;
    }
  }
};

// A second thread helps by a fifth: it is found although one thread was thought enough, at the first trial.
void test_finds_a_useful_thread() {
  Machine m{[](int threads, double) { return threads == 1 ? 15e-6 : threads == 2 ? 12e-6 : 14e-6; }};
  m.flop = 1.2e6;  // two threads may be tried, more not
  m.run(0.02);
  if (m.last != 2) fail("useful thread: %d threads after 20 ms, expected 2", m.last);
  m.run(2);
  if (m.last != 2 || m.spent[1] > 0.03) fail("useful thread: back to %d, %g s on one", m.last, m.spent[1]);
  if (m.spent[3] + m.spent[4] > 0) fail("useful thread: tried more than its arithmetic may have");
  if (m.pace.threads(32) != 2 || m.pace.threads(33) != 0) fail("useful thread: says %d", m.pace.threads(32));
}

// Calls of some milliseconds with pauses between them, in which threads fall asleep.
void test_finds_it_between_pauses() {
  Machine m{[](int threads, double) { return threads == 1 ? 15e-6 : 12e-6; }, 300e-6};
  m.flop = 1.2e6;
  m.run(0.002);
  for (int call = 0; call < 20; ++call) {
    m.time += 0.1;
    m.run(1e-6);  // one step, which cannot be a trial
    m.run(0.05);
    if (call > 1 && m.last != 2) return fail("pauses: %d threads in call %d", m.last, call);
  }
  // Calls too short to wait for a better moment have their trials all the same.
  Machine brief{[](int threads, double) { return threads == 1 ? 15e-6 : 40e-6; }};
  brief.flop = 9e6;
  brief.worth = 2;
  for (int call = 0; call < 200; ++call) {
    brief.time += 0.01;
    brief.run(0.003);
  }
  if (brief.last != 1) fail("pauses: %d threads in short calls", brief.last);
}

// Where a team takes three times as long for a while, hardly more than the trials is lost, and the team comes back.
void test_leaves_a_slow_team() {
  Machine m{[](int threads, double at) { return threads == 1 ? 100e-6 : at > 1 && at < 3 ? 300e-6 : 60e-6; }};
  m.flop = 9e6;
  m.worth = m.allowed = 2;
  m.run(1);
  if (m.last != 2) fail("slow team: %d threads while a team is quicker", m.last);
  m.run(0.15);
  if (m.last != 1) fail("slow team: %d threads while a team is slow", m.last);
  const double team = m.spent[2];
  m.run(1.7);
  if (m.spent[2] - team > 0.05) fail("slow team: %g s spent on it", m.spent[2] - team);
  m.run(0.6);
  if (m.last != 2) fail("slow team: %d threads after it became quick again", m.last);
}

// Where another program has a CPU, each step of a team waits for a time slice: trials are given up, and get rarer.
void test_gives_up_trials() {
  Machine m{[](int threads, double) { return threads == 1 ? 18e-6 : 4e-3; }};
  m.run(10);
  if (m.last != 1) fail("time slices: %d threads", m.last);
  if (m.spent[2] > 0.15) fail("time slices: trials took %g of 10 s", m.spent[2]);
}

// Of many threads it climbs to the best number from below and from above.
void test_climbs() {
  for (const int worth : {1, 16}) {
    Machine m{[](int threads, double) { return 1e-5 + std::fabs(std::log2(threads) - 2) * 1e-5; }};  // best: 4
    m.flop = 1e8;
    m.worth = worth;
    m.allowed = 16;
    m.run(3);
    if (m.last != 4) fail("climbing from %d: %d threads, expected 4", worth, m.last);
  }
}

// The best number moves, and so does the pace, both ways.
void test_follows() {
  Machine m{[](int threads, double at) {
    return 1e-5 + std::fabs(std::log2(threads) - (at < 3 ? 1 : at < 6 ? 3 : 0)) * 1e-5;
  }};
  m.flop = 1e8;
  m.worth = 4;
  for (const int best : {2, 8, 1}) {
    m.run(3);
    if (m.last != best) fail("following: %d threads, expected %d", m.last, best);
  }
}

// Differences of less than five in a hundred do not count, and trials take little time.
void test_stays() {
  Machine m{[](int threads, double) { return threads == 4 ? 100e-6 : 98e-6; }};
  m.flop = 1e7;
  m.worth = 4;
  m.allowed = 4;
  m.run(5);
  if (m.last != 4 || m.trials < 20) fail("staying: %d threads, %lld trials", m.last, static_cast<long long>(m.trials));
  if (m.spent[4] < 4.9) fail("staying: trials took %g of 5 s", 5 - m.spent[4]);
}

// No trials: one thread allowed, large steps, steps too small to share.
void test_leaves_alone() {
  for (const auto& [flop, worth, allowed] : {std::tuple{9e6, 1, 1}, {3e8, 8, 8}, {9e5, 1, 8}}) {
    Machine m{[](int, double) { return 1e-3; }};
    m.flop = flop;
    m.worth = worth;
    m.allowed = allowed;
    m.run(1);
    if (m.trials || m.last != worth) fail("left alone: %lld trials", static_cast<long long>(m.trials));
    if (m.pace.threads(32)) fail("left alone: says %d", m.pace.threads(32));
  }
}

// Another batch size starts afresh.
void test_forgets() {
  Machine m{[](int threads, double) { return threads == 1 ? 1e-5 : 3e-5; }};
  m.flop = 9e6;
  m.worth = m.allowed = 2;
  m.run(1);
  m.rows = 64;
  const Pace::Stretch stretch = m.pace.next(m.rows, m.flop, 2, 2, 1000, m.now());
  if (m.last != 1 || stretch.threads != 2) fail("another size: %d threads", stretch.threads);
}

}  // namespace

int main() {
  test_finds_a_useful_thread();
  test_finds_it_between_pauses();
  test_leaves_a_slow_team();
  test_gives_up_trials();
  test_climbs();
  test_follows();
  test_stays();
  test_leaves_alone();
  test_forgets();
  std::printf("%d failures\n", checks::failures);
  return checks::failures ? 1 : 0;
}
