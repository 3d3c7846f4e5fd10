// Threads: the only header that offers them; parallel.cpp is the only file that knows OpenMP.
#pragma once

#include <cstdint>

namespace fp {

// One thread's view of the team that runs a native call.
class Team {
 public:
  int rank;
  int size;
  // Tells the others that this thread has come so many marks further.
  void mark(int further = 1);
  // Waits until every other thread has told of all but the last `behind` of the marks that this one has told of, and
  // sees what they wrote before: spins a bounded time, then yields.
  void await(int behind);
  void barrier() {
    mark();
    await(0);
  }

  struct Shared;
  Shared* shared;
  uint32_t marks = 0;
  // Leaves a CPU that another member runs on, at most once: when the team begins, or in a long wait.
  void move_away();
  bool moved = false;
};

inline constexpr int kMostThreads = 1024;  // of a team

// Runs fn(team, context) on up to `threads` threads (the caller is rank 0) and returns when all have finished.
// The team may be smaller than asked; fn must split its work by team.size. fn must not throw. Each
// thread runs with flush-to-zero set and has its floating-point state restored afterwards. Without OpenMP, or
// with threads <= 1, fn runs on the caller alone.
void parallel_run(int threads, void (*fn)(Team&, void*), void* context);
// The same for f(team).
template <class F>
void parallel_run(int threads, const F& f) {
  parallel_run(threads, [](Team& team, void* f) { (*static_cast<const F*>(f))(team); }, const_cast<F*>(&f));
}

// Thread count in force: set_thread_count, else OMP_NUM_THREADS, else min(CPU affinity, cgroup quota).
int thread_count();
void set_thread_count(int threads);  // 0: back to the default
// "set_num_threads", "OMP_NUM_THREADS", "cgroup quota", "CPU affinity", the last two perhaps followed by
// " (OMP_NUM_THREADS is not a positive number)".
const char* thread_count_reason();
const char* openmp_runtime();  // "libgomp", "libomp", ... or "none"; with version when known

// While one exists, the process does not fork: for what a child must not see half done. Short work only.
struct Unforked {
  Unforked();
  ~Unforked();
  Unforked(const Unforked&) = delete;
};

// Registers the fork handlers once; called when the extension module loads.
void install_fork_handlers();

struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

// Part `rank` of [0, n) cut in `size` parts whose borders are multiples of `grain`.
inline Range split(int64_t n, int rank, int size, int64_t grain) {
  int64_t tiles = (n + grain - 1) / grain;
  int64_t b = tiles * rank / size * grain, e = tiles * (rank + 1) / size * grain;
  return {b < n ? b : n, e < n ? e : n};
}

}  // namespace fp
