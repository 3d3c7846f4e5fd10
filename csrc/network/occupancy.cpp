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

thread_local const Hold* innermost = nullptr;

}  // namespace

Hold::Hold(Occupancy& o, int32_t holder) : o_(o), holder_(holder), around_(innermost) {
  const int32_t me = process_id();
  int32_t own = 0;
  for (const Hold* h = around_; h; h = h->around_) own += &h->o_ == &o ? h->holder_ : 0;
  for (Occupancy::Holders now = o.holders_.load();;) {
    // Others counted before a fork are threads that this process does not have.
    const int32_t count = now.process == me ? now.count : own;
    if (holder == kReader && count < 0) throw Busy("predict: another thread is training or changing this model");
    if (holder == kWriter && count != 0) throw Busy("another thread is using this model");
    if (o.holders_.compare_exchange_weak(now, {me, count + holder})) break;
  }
  innermost = this;
}

Hold::~Hold() {
  innermost = around_;
  for (Occupancy::Holders now = o_.holders_.load();;)
    if (o_.holders_.compare_exchange_weak(now, {now.process, now.count - holder_})) return;
}

}  // namespace fp
