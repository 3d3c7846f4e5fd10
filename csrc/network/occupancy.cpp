#include "network/occupancy.hpp"

#if defined(_WIN32)
#include <process.h>
#else
#include <unistd.h>
#endif

namespace fp {

namespace {

int32_t process_id() {
#if defined(_WIN32)
  return _getpid();
#else
  return getpid();
#endif
}

}  // namespace

// changed(count) is the new count, or throws.
template <class F>
void Occupancy::enter(const F& changed) {
  const int32_t me = process_id();
  for (Holders now = holders_.load();;) {
    // Holders counted before a fork belong to threads that this process does not have.
    const Holders next{me, changed(now.process == me ? now.count : 0)};
    if (holders_.compare_exchange_weak(now, next)) return;
  }
}

void Occupancy::leave(int32_t holder) {
  for (Holders now = holders_.load();;)
    if (holders_.compare_exchange_weak(now, {now.process, now.count - holder})) return;
}

void Occupancy::enter_shared() {
  enter([](int32_t count) {
    if (count < 0) throw Busy("predict: another thread is training or changing this model");
    return count + kReader;
  });
}

void Occupancy::leave_shared() { leave(kReader); }

void Occupancy::enter_exclusive(Writes what) {
  enter([](int32_t count) {
    if (count != 0) throw Busy("another thread is using this model");
    return kWriter;
  });
  if (what == Writes::parameters) changes_->fetch_add(1);
}

void Occupancy::leave_exclusive() { leave(kWriter); }

}  // namespace fp
