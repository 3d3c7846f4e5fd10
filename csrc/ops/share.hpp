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
  parallel_run(threads, [&](Team& team) {
    Range range = split(n, team.rank, team.size, grain);
    if (range.size() > 0) part(range);
  });
}

}  // namespace fp
