#include "runtime/parallel.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <mutex>
#include <new>
#include <thread>

#include "runtime/cpu_limits.hpp"
#include "runtime/fpstate.hpp"

#if defined(FP_STD_THREADS)
#include <vector>
#elif defined(_OPENMP)
#include <omp.h>
#endif
#if !defined(_WIN32)
#include <pthread.h>
#include <sched.h>
#endif
#if defined(__SSE2__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace fp {
namespace {

// What threads that run side by side hardly ever wait for each other, a few microseconds.
constexpr int kFirstSpins = 200;

// One step of a spin loop.
void relax() {
#if defined(__SSE2__) || defined(_M_X64)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("isb");
#endif
}

void give_way() {
#if defined(_WIN32)
  std::this_thread::yield();
#else
  sched_yield();
#endif
}

struct Default {
  int threads;
  int cpus;  // what affinity and quota leave to this process
  const char* reason;
};

Default find_default() {
  int affinity = std::min(affinity_cpus(), kMostThreads), quota = cgroup_cpus();
  bool limited = quota > 0 && quota < affinity, bad = false;
  int cpus = limited ? quota : affinity;
  const char* text = std::getenv("OMP_NUM_THREADS");
  if (text && *text) {
    // "4,2" gives a count per nesting level; the first is ours.
    char* end = nullptr;
    errno = 0;
    long value = std::strtol(text, &end, 10);
    while (*end == ' ' || *end == '\t') ++end;
    if (end != text && errno == 0 && value >= 1 && (*end == '\0' || *end == ','))
      return {static_cast<int>(std::min<long>(value, kMostThreads)), cpus, "OMP_NUM_THREADS"};
    bad = true;
  }
  if (limited) return {cpus, cpus, bad ? "cgroup quota (OMP_NUM_THREADS is not a positive number)" : "cgroup quota"};
  return {cpus, cpus, bad ? "CPU affinity (OMP_NUM_THREADS is not a positive number)" : "CPU affinity"};
}

// Atomics instead of a function-local static: a fork while another thread initialises one would leave the child
// waiting for ever. Computing the default twice is harmless.
std::atomic<int> chosen_threads{0};
std::atomic<int> default_threads{0};
std::atomic<const char*> default_reason{nullptr};
std::atomic<int> usable_cpus{0};

void ensure_default() {
  if (default_threads.load(std::memory_order_acquire) > 0) return;
  Default found = find_default();
  usable_cpus.store(found.cpus, std::memory_order_relaxed);
  default_reason.store(found.reason, std::memory_order_relaxed);
  default_threads.store(found.threads, std::memory_order_release);
}

// The number of the CPU this thread runs on, from 1; 0 where the system does not tell cheaply.
int this_place() {
#if defined(__linux__)
  return sched_getcpu() + 1;
#else
  return 0;
#endif
}

}  // namespace

// What the members of a team tell each other: a line for each, which only it writes.
struct alignas(128) Team::Shared {
  struct Member {
    std::atomic<uint32_t> marks;
    std::atomic<int> place;  // where it was when it began, or last waited
  };

  explicit Shared(int members)
      : size(members),
        stride(static_cast<std::size_t>(members) <= sizeof room / kApart ? kApart : sizeof(Member)),
        // Spinning pays only while every thread of the team can have a CPU of its own.
        spins(members <= usable_cpus.load(std::memory_order_relaxed) ? 4000 : 16) {
    for (int i = 0; i < members; ++i) new (room + static_cast<std::size_t>(i) * stride) Member{{0}, {0}};
    note_place(0);
  }
  Member& member(int rank) {
    return *std::launder(reinterpret_cast<Member*>(room + static_cast<std::size_t>(rank) * stride));
  }

  int note_place(int rank) {
    const int here = this_place();
    std::atomic<int>& place = member(rank).place;
    if (place.load(std::memory_order_relaxed) != here) place.store(here, std::memory_order_relaxed);
    return here;
  }
  // Whether another member was last seen on that CPU.
  bool is_shared(int here, int rank) {
    for (int i = 0; here && i < size; ++i)
      if (i != rank && member(i).place.load(std::memory_order_relaxed) == here) return true;
    return false;
  }

  // Lines are fetched in pairs; more members than there is room for in this way lie together.
  static constexpr std::size_t kApart = 128;
  alignas(kApart) char room[kMostThreads * sizeof(Member)];
  int size;
  std::size_t stride;
  int spins;
};

// Woken threads often begin on one CPU while another idles, and as long as they wait for each other there the system
// sees little reason to part them: it can take milliseconds. So a helper (never the caller's thread) that finds itself
// beside another member asks, once in a region, to be elsewhere; its affinity is then as it was.
void Team::move_away() {
#if defined(__linux__)
  Shared& s = *shared;
  if (rank == 0 || moved || !s.is_shared(s.note_place(rank), rank)) return;
  moved = true;
  cpu_set_t own;
  if (sched_getaffinity(0, sizeof own, &own) != 0) return;
  cpu_set_t free = own;
  for (int i = 0; i < size; ++i) {
    const int place = s.member(i).place.load(std::memory_order_relaxed);
    if (place > 0 && place <= CPU_SETSIZE) CPU_CLR(place - 1, &free);
  }
  if (CPU_COUNT(&free) == 0 || sched_setaffinity(0, sizeof free, &free) != 0) return;
  sched_setaffinity(0, sizeof own, &own);
  s.note_place(rank);
#endif
}

void Team::mark(int further) {
  marks += static_cast<uint32_t>(further);
  if (size > 1) shared->member(rank).marks.store(marks, std::memory_order_release);
}

void Team::await(int behind) {
  if (size <= 1) return;
  Shared& s = *shared;
  const uint32_t count = marks - static_cast<uint32_t>(behind);
  const int here = s.note_place(rank);
  int spins = 0;
  for (int other = 0; other < size; ++other) {
    const std::atomic<uint32_t>& theirs = s.member(other).marks;
    while (other != rank && static_cast<int32_t>(theirs.load(std::memory_order_acquire) - count) < 0) {
      if (spins == kFirstSpins && s.is_shared(here, rank)) {
        move_away();
        spins = s.spins;  // whoever is waited for needs this CPU
      }
      if (spins < s.spins) {
        ++spins;
        relax();
      } else {
        give_way();
      }
    }
  }
}

namespace {

void run_alone(void (*fn)(Team&, void*), void* context) {
  FpState state;
  Team team{0, 1, nullptr};
  fn(team, context);
}

}  // namespace

#if defined(FP_STD_THREADS)

void parallel_run(int threads, void (*fn)(Team&, void*), void* context) {
  ensure_default();
  if (threads <= 1) return run_alone(fn, context);
  threads = std::min(threads, kMostThreads);
  Team::Shared shared(threads);
  auto run = [&](int rank) {
    FpState state;
    Team team{rank, threads, &shared};
    team.move_away();
    fn(team, context);
  };
  std::vector<std::thread> helpers;
  for (int rank = 1; rank < threads; ++rank) helpers.emplace_back(run, rank);
  run(0);
  for (std::thread& helper : helpers) helper.join();
}

const char* openmp_runtime() { return "none (std::thread, for ThreadSanitizer)"; }
namespace {
[[maybe_unused]] void dissolve_pool() {}
}  // namespace

#elif defined(_OPENMP)

namespace {

// The threads that OpenMP's runtime keeps for this one, itself included.
thread_local int pooled = 1;

// Whether so many threads more can be created now. OpenMP's runtimes end the process when they cannot.
bool can_create(int count) {
#if defined(_WIN32)
  return true;
#else
  std::mutex gate;  // keeps all of them until the last one is there
  gate.lock();
  pthread_t threads[kMostThreads];
  int created = 0;
  const auto wait = [](void* at) -> void* {
    auto& gate_of_all = *static_cast<std::mutex*>(at);
    const std::lock_guard<std::mutex> passed(gate_of_all);
    return nullptr;
  };
  while (created < count && pthread_create(threads + created, nullptr, wait, &gate) == 0) ++created;
  gate.unlock();
  for (int i = 0; i < created; ++i) pthread_join(threads[i], nullptr);
  return created == count;
#endif
}

}  // namespace

void parallel_run(int threads, void (*fn)(Team&, void*), void* context) {
  ensure_default();
  threads = std::min(threads, kMostThreads);
  // Inside somebody else's region the cores are already busy, and the runtime may give one thread anyway.
  if (threads <= 1 || omp_in_parallel() || (threads > pooled && !can_create(threads - pooled)))
    return run_alone(fn, context);
  pooled = threads;  // the runtime lets go of those that are not needed
  Team::Shared shared(threads);
#pragma omp parallel num_threads(threads)
  {
    FpState state;
    Team team{omp_get_thread_num(), omp_get_num_threads(), &shared};
    team.move_away();
    fn(team, context);
  }
}

// Weak: they exist or not according to the runtime this process loaded, which may differ from the one of the build.
#if defined(__ELF__)
extern "C" __attribute__((weak)) int omp_pause_resource_all(omp_pause_resource_t);
extern "C" __attribute__((weak)) int kmp_get_blocktime(void);
#endif

const char* openmp_runtime() {
#if defined(__ELF__)
  bool llvm = kmp_get_blocktime != nullptr;
#else
  bool llvm = true;
#endif
#if _OPENMP >= 202011
#define FP_OPENMP_VERSION "5.1 or newer"
#elif _OPENMP >= 201811
#define FP_OPENMP_VERSION "5.0"
#elif _OPENMP >= 201511
#define FP_OPENMP_VERSION "4.5"
#else
#define FP_OPENMP_VERSION "older than 4.5"
#endif
  return llvm ? "libomp (OpenMP " FP_OPENMP_VERSION ")" : "libgomp (OpenMP " FP_OPENMP_VERSION ")";
}

namespace {

// libgomp keeps one pool of threads per user thread. A child inherits the pool of the thread that forked without
// its threads and would wait for them for ever, so that pool is dissolved first; pools of other threads,
// busy or not, are neither touched here nor reachable in the child. LLVM's runtime handles fork itself, and its
// pause would stop the whole process's threads.
[[maybe_unused]] void dissolve_pool() {
#if defined(__ELF__)
  if (omp_pause_resource_all && !kmp_get_blocktime && !omp_in_parallel()) {
    omp_pause_resource_all(omp_pause_hard);
    pooled = 1;
  }
#endif
}

}  // namespace

#else

void parallel_run(int, void (*fn)(Team&, void*), void* context) { run_alone(fn, context); }
const char* openmp_runtime() { return "none"; }
namespace {
[[maybe_unused]] void dissolve_pool() {}
}  // namespace

#endif

namespace {

std::mutex whole;

}  // namespace

Unforked::Unforked() { whole.lock(); }
Unforked::~Unforked() { whole.unlock(); }

void install_fork_handlers() {
#if !defined(_WIN32)
  static std::atomic<bool> installed{false};
  if (!installed.exchange(true)) {
    const auto before = [] {
      dissolve_pool();
      whole.lock();
    };
    const auto in_parent = [] { whole.unlock(); };
    // A worker process may have an affinity or an OMP_NUM_THREADS of its own.
    const auto in_child = [] {
      whole.unlock();
      default_threads.store(0, std::memory_order_relaxed);
    };
    pthread_atfork(before, in_parent, in_child);
  }
#endif
  ensure_default();
}

int thread_count() {
  int chosen = chosen_threads.load(std::memory_order_relaxed);
  if (chosen > 0) return chosen;
  ensure_default();
  return default_threads.load(std::memory_order_relaxed);
}

void set_thread_count(int threads) {
  chosen_threads.store(std::clamp(threads, 0, kMostThreads), std::memory_order_relaxed);
}

const char* thread_count_reason() {
  if (chosen_threads.load(std::memory_order_relaxed) > 0) return "set_num_threads";
  ensure_default();
  return default_reason.load(std::memory_order_relaxed);
}

}  // namespace fp
