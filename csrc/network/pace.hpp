// How many threads small steps run on, by measuring: where a machine's CPUs share no cache, or are not all its own, a
// team can take several times as long as one thread alone, for seconds at a time. A step has the same bits either way.
#pragma once

#include <chrono>
#include <cstdint>

namespace fp {

class Pace {
 public:
  using Clock = std::chrono::steady_clock;

  // What comes next: on how many threads, and for how long at most.
  struct Stretch {
    int threads;
    int64_t steps = INT64_MAX;
    Clock::time_point end = Clock::time_point::max();
    bool trial = false, noted = false;
  };

  // rows: of a step; flop: its arithmetic; team: the threads it is worth where all is well.
  Stretch next(int64_t rows, double flop, int team) {
    if (team == 1 || flop > kMostFlop) return {team};
    if (rows != rows_ || team != team_) *this = Pace(rows, team);
    const auto now = Clock::now();
    if (now >= trial_) return {other(), kTrialSteps, Clock::time_point::max(), true, true};
    return {best_, INT64_MAX, trial_, false, true};
  }

  // After a stretch of so many steps, the first one left out, which moves what the caches hold.
  void note(const Stretch& stretch, int64_t steps, double seconds) {
    if (!stretch.noted) return;
    if (!stretch.trial) {
      if (steps > 0) seconds_ = seconds / static_cast<double>(steps);
      return;
    }
    if (steps > 0 && seconds_ > 0 && seconds / static_cast<double>(steps) < kBetter * seconds_) {
      best_ = stretch.threads;
      seconds_ = seconds / static_cast<double>(steps);
    }
    trial_ = Clock::now() + kEvery;
  }

  Pace() = default;

 private:
  // Larger steps always gain by a team. A trial costs a hundredth of the time at most, unless a team takes far longer.
  static constexpr double kMostFlop = 2e8, kBetter = 0.95;
  static constexpr int64_t kTrialSteps = 5;
  static constexpr std::chrono::milliseconds kFirst{5}, kEvery{200};

  Pace(int64_t rows, int team) : rows_(rows), team_(team), best_(team), trial_(Clock::now() + kFirst) {}
  int other() const { return best_ == 1 ? team_ : 1; }

  int64_t rows_ = 0;
  int team_ = 1, best_ = 1;
  double seconds_ = 0;  // a step's, on best_ threads
  Clock::time_point trial_{};
};

}  // namespace fp
