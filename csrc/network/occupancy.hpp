// Who uses a network: any number of readers, or one writer; a call that conflicts with one in progress throws Busy.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <stdexcept>

namespace fp {

class Busy : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Counts readers, or one writer; forgets the holders of the parent after a fork.
class Occupancy {
 public:
  void enter_shared();
  void leave_shared();
  void enter_exclusive();
  void leave_exclusive();
  // How many writers there have been. A copy of the state that outlives the network can still ask.
  using Changes = std::shared_ptr<const std::atomic<uint64_t>>;
  Changes changes() const { return changes_; }

 private:
  void notice_fork();
  std::atomic<int> holders_{0};  // -1: a writer
  std::atomic<long> owner_{0};   // process id
  std::shared_ptr<std::atomic<uint64_t>> changes_ = std::make_shared<std::atomic<uint64_t>>(0);
};

struct Shared {
  explicit Shared(Occupancy& o) : o_(o) { o_.enter_shared(); }
  ~Shared() { o_.leave_shared(); }
  Shared(const Shared&) = delete;
  Occupancy& o_;
};

struct Exclusive {
  explicit Exclusive(Occupancy& o) : o_(o) { o_.enter_exclusive(); }
  ~Exclusive() { o_.leave_exclusive(); }
  Exclusive(const Exclusive&) = delete;
  Occupancy& o_;
};

}  // namespace fp
