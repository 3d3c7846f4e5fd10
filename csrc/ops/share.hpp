// Sharing one loop among threads.
#pragma once

#include <algorithm>

#include "runtime/parallel.hpp"

namespace fp {

// Threads worth using for `work` units when a thread should have at least `least` of them.
inline int threads_for(double work, double least) {
  double wanted = work / least;
  return wanted < 2 ? 1 : static_cast<int>(std::min<double>(wanted, thread_count()));
}

// Runs part(Range) over [0, n) on up to `threads` threads; borders are multiples of grain. part must not throw.
template <class Part>
void share(int threads, int64_t n, int64_t grain, const Part& part) {
  struct Call {
    const Part* part;
    int64_t n, grain;
  } call{&part, n, grain};
  parallel_run(
      threads,
      [](Team& team, void* context) {
        const Call& c = *static_cast<const Call*>(context);
        Range range = split(c.n, team.rank, team.size, c.grain);
        if (range.size() > 0) (*c.part)(range);
      },
      &call);
}

}  // namespace fp
