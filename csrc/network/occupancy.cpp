#include "network/occupancy.hpp"

#if defined(_WIN32)
#include <process.h>
#else
#include <unistd.h>
#endif

namespace fp {

namespace {

long process_id() {
#if defined(_WIN32)
  return _getpid();
#else
  return getpid();
#endif
}

}  // namespace

void Occupancy::notice_fork() {
  const long me = process_id();
  long owner = owner_.load();
  if (owner == me) return;
  // Holders counted before a fork belong to threads that this process does not have.
  if (owner_.compare_exchange_strong(owner, me)) holders_.store(0);
}

void Occupancy::enter_shared() {
  notice_fork();
  int h = holders_.load();
  do {
    if (h < 0) throw Busy("predict: another thread is training or changing this model");
  } while (!holders_.compare_exchange_weak(h, h + 1));
}

void Occupancy::leave_shared() { holders_.fetch_sub(1); }

void Occupancy::enter_exclusive() {
  notice_fork();
  int free = 0;
  if (!holders_.compare_exchange_strong(free, -1)) throw Busy("another thread is using this model");
  changes_->fetch_add(1);
}

void Occupancy::leave_exclusive() { holders_.store(0); }

}  // namespace fp
