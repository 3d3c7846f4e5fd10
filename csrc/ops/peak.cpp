#include "ops/peak.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>

#include "runtime/dispatch.hpp"
#include "runtime/memory.hpp"
#include "runtime/parallel.hpp"

namespace fp {
namespace {

using Clock = std::chrono::steady_clock;

// The summed rates of a team: every thread repeats work(team), which returns what it did, and divides by its own time.
// Threads begin together; one that has no CPU of its own is slow by its own clock.
template <class Work>
double total_rate(int threads, double seconds, const Work& work) {
  struct alignas(64) Rate {
    double value;
  };
  Buffer<Rate> rates(threads);
  parallel_run(threads, [&](Team& team) {
    work(team);  // pages, caches and the clock frequency of wide registers
    team.barrier();
    const Clock::time_point start = Clock::now();
    double done = 0, elapsed = 0;
    while (elapsed < seconds) {
      done += work(team);
      elapsed = std::chrono::duration<double>(Clock::now() - start).count();
    }
    rates[team.rank].value = done / elapsed;
  });
  double total = 0;
  for (int i = 0; i < threads; ++i) total += rates[i].value;
  return total;
}

}  // namespace

template <class T>
double measure_peak(int threads, double seconds) {
  const Kernels<T>& k = kernels<T>();
  return total_rate(threads, seconds, [&](Team&) {
    T values[3] = {T(0.5), T(1), T(0)};  // every chain tends to 2
    return double(k.peak(2000, values));
  });
}
template double measure_peak<float>(int, double);
template double measure_peak<double>(int, double);

double measure_peak16(int threads, double seconds) {
  const Products16& p = products16();
  return total_rate(threads, seconds, [&](Team&) {
    float values[3] = {0.5f, 1, 0};
    return double(p.peak(2000, values));
  });
}

Bandwidth measure_bandwidth(int threads, double bytes, double seconds) {
  constexpr int64_t kWidth = 64, kRows = 64;  // column_sums reads 16 KiB at a time, in order
  const Kernels<float>& k = kernels<float>();
  const int64_t rows = static_cast<int64_t>(bytes / 2 / sizeof(float)) / kWidth;
  Buffer<float> x(rows * kWidth), y(rows * kWidth), sums(threads * kWidth);
  Bandwidth result;
  result.update = total_rate(threads, seconds, [&](Team& team) {
    const Range mine = split(rows, team.rank, team.size, 1);
    float *from = x.data() + mine.begin * kWidth, *to = y.data() + mine.begin * kWidth;
    // Both ways, so that both are written: pages that are only read would all be one page of zeros.
    k.add(mine.size() * kWidth, from, to);
    k.add(mine.size() * kWidth, to, from);
    return double(mine.size() * kWidth) * 6 * sizeof(float);
  });
  result.read = total_rate(threads, seconds, [&](Team& team) {
    const Range mine = split(rows, team.rank, team.size, 1);
    for (const Buffer<float>* from : {&x, &y})
      for (int64_t i = mine.begin; i < mine.end; i += kRows)
        k.column_sums(mine.end - i < kRows ? mine.end - i : kRows, kWidth, from->data() + i * kWidth, kWidth,
                      sums.data() + team.rank * kWidth, false, kRowBlock);
    return double(mine.size() * kWidth) * 2 * sizeof(float);
  });
  return result;
}

double measure_round_trip(double seconds) {
  constexpr int64_t kTrips = 100, kSamples = 1000, kDone = -1;
  struct Call {
    alignas(256) std::atomic<int64_t> there{0};
    alignas(256) std::atomic<int64_t> back{0};
    alignas(256) double samples[kSamples] = {};
    int64_t count = 0;
  } c;
  parallel_run(2, [&](Team& team) {
    if (team.size < 2 || team.rank > 1) return;
    team.barrier();
    if (team.rank == 1) {
      int64_t seen = 0;
      while (seen != kDone) {
        const int64_t now = c.there.load(std::memory_order_acquire);
        if (now == seen) continue;
        seen = now;
        c.back.store(seen, std::memory_order_release);
      }
      return;
    }
    const Clock::time_point begin = Clock::now();
    Clock::time_point now = begin;
    int64_t trip = 0;
    while (c.count < kSamples && std::chrono::duration<double>(now - begin).count() < seconds) {
      const Clock::time_point start = now;
      for (int64_t i = 0; i < kTrips; ++i) {
        c.there.store(++trip, std::memory_order_release);
        while (c.back.load(std::memory_order_acquire) != trip) {
        }
      }
      now = Clock::now();
      c.samples[c.count++] = std::chrono::duration<double>(now - start).count() / kTrips;
    }
    c.there.store(kDone, std::memory_order_release);
  });
  if (c.count == 0) return 0;
  std::nth_element(c.samples, c.samples + c.count / 2, c.samples + c.count);
  return c.samples[c.count / 2];
}

}  // namespace fp
