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
void Occupancy::change(const F& changed) {
  const int32_t me = process_id();
  Holders now = holders_.load();
  for (;;) {
    // Holders counted before a fork belong to threads that this process does not have.
    const Holders next{me, changed(now.process == me ? now.count : 0)};
    if (holders_.compare_exchange_weak(now, next)) return;
  }
}

void Occupancy::enter_shared() {
  change([](int32_t count) {
    if (count < 0) throw Busy("predict: another thread is training or changing this model");
    return count + 1;
  });
}

void Occupancy::leave_shared() {
  change([](int32_t count) { return count > 0 ? count - 1 : 0; });
}

void Occupancy::enter_exclusive(Writes what) {
  change([](int32_t count) {
    if (count != 0) throw Busy("another thread is using this model");
    return -1;
  });
  if (what == Writes::parameters) changes_->fetch_add(1);
}

void Occupancy::leave_exclusive() {
  change([](int32_t) { return 0; });
}

}  // namespace fp
