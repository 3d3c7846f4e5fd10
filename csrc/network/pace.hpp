// How many threads small steps run on, by measuring: where a machine's CPUs share no cache, or are not all its own, a
// team can take several times as long as one thread alone, for seconds at a time; elsewhere a second thread pays even
// for a few microseconds of work. A step has the same bits either way.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace fp {

class Pace {
 public:
  using Clock = std::chrono::steady_clock;

  static constexpr Clock::time_point kNever = Clock::time_point::max();

  // What comes next: on how many threads, and for how long at most.
  struct Stretch {
    int threads;
    int64_t steps = INT64_MAX;
    Clock::time_point end = kNever;
    bool trial = false, noted = false;
    int64_t left_out = 1;  // of its first steps, which wake threads and move what caches hold, when it is timed
  };

  // rows: of a step; flop: its arithmetic; worth: the threads it is worth where all is well; allowed: the most it may
  // have; steps: how many follow.
  Stretch next(int64_t rows, double flop, int worth, int allowed, int64_t steps, Clock::time_point now) {
    const int most = std::max(worth, static_cast<int>(std::min<double>(allowed, flop / kLeastFlop)));
    if (most == 1 || flop > kMostFlop) return {worth};
    if (rows != rows_ || worth != worth_ || most != most_) *this = Pace(rows, worth, most, now);
    // A call of fewer steps tells nothing; the next one may.
    const bool due = now >= trial_, can_tell = steps >= kTrialLeftOut + kTrialSteps;
    if (due && can_tell) {
      const int64_t most_steps = kTrialLeftOut + trial_steps();
      const std::chrono::duration<double> patience(kPatience * static_cast<double>(most_steps) * seconds_);
      const auto end = seconds_ > 0 ? now + kWaking + std::chrono::duration_cast<Clock::duration>(patience) : kNever;
      return {other(), most_steps, end, true, true, kTrialLeftOut};
    }
    return {best_, INT64_MAX, due ? kNever : trial_, false, true};
  }

  // After a stretch of so many steps, but for those left out.
  void note(const Stretch& stretch, int64_t steps, double seconds, Clock::time_point now) {
    if (!stretch.noted) return;
    const double each = steps > 0 ? seconds / static_cast<double>(steps) : 0;
    if (!stretch.trial) {
      if (steps > 0) seconds_ = each;
      widest_ = std::max(widest_, stretch.threads);
      return;
    }
    up_ = !up_;
    // One that took far longer, or was given up, is not soon repeated.
    const bool far = steps <= 0 || each > kFar * seconds_;
    pause_ = far ? std::min(2 * pause_, kLongest) : kEvery;
    if (steps > 0 && seconds_ > 0 && each < kBetter * seconds_) {
      up_ = stretch.threads > best_;  // the same way once more
      best_ = stretch.threads;
      seconds_ = each;
    }
    trial_ = now + pause_;
  }

  // The most threads, but for trials, that steps of so many rows have run on lately; 0: none were paced.
  int threads(int64_t rows) const { return rows == rows_ ? widest_ : 0; }

  Pace() = default;

 private:
  // Larger steps always gain by a team, and threads with less than kLeastFlop never do. A trial costs a hundredth of
  // the time at most, unless a team takes far longer, as where another program has one of the CPUs: each of its steps
  // may wait for that program's time slice then.
  static constexpr double kMostFlop = 2e8, kLeastFlop = 5e5, kBetter = 0.95, kTrialSeconds = 6e-4;
  static constexpr double kPatience = 2, kFar = 1.5;
  static constexpr int64_t kTrialSteps = 5, kMostTrialSteps = 50, kTrialLeftOut = 6;
  static constexpr std::chrono::milliseconds kFirst{5}, kEvery{100}, kLongest{400}, kWaking{1};

  Pace(int64_t rows, int worth, int most, Clock::time_point now)
      : rows_(rows), worth_(worth), most_(most), best_(worth), up_(worth == 1), trial_(now + kFirst) {}
  // Half as many threads or twice as many, in turn.
  int other() const {
    const bool up = best_ == 1 || (up_ && best_ < most_);
    return up ? std::min(2 * best_, most_) : (best_ + 1) / 2;
  }
  // Few, and enough of them to tell their time.
  int64_t trial_steps() const {
    return seconds_ > 0 ? std::clamp(static_cast<int64_t>(kTrialSeconds / seconds_), kTrialSteps, kMostTrialSteps)
                        : kTrialSteps;
  }

  int64_t rows_ = 0;
  int worth_ = 1, most_ = 1, best_ = 1, widest_ = 0;
  bool up_ = false;     // which way the next trial goes
  double seconds_ = 0;  // a step's, on best_ threads
  Clock::time_point trial_{};
  std::chrono::milliseconds pause_ = kEvery;  // before the next trial
};

}  // namespace fp
