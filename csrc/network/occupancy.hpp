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

// What a writer changes: what predictions are made from, or other things alone.
enum class Writes { parameters, others };

// Counts readers, or one writer; forgets the holders of the parent after a fork.
class Occupancy {
 public:
  void enter_shared();
  void leave_shared();
  void enter_exclusive(Writes what);
  void leave_exclusive();
  // How many writers of parameters there have been. A copy of them that outlives the network can still ask.
  using Changes = std::shared_ptr<const std::atomic<uint64_t>>;
  Changes changes() const { return changes_; }

 private:
  // Of one process, in one word, so that what a fork left behind is forgotten along with its process's number.
  struct Holders {
    int32_t process;
    int32_t count;
  };
  static constexpr int32_t kReader = 1, kWriter = -1;
  template <class F>
  void enter(const F& changed);
  void leave(int32_t holder);
  std::atomic<Holders> holders_{Holders{0, 0}};
  std::shared_ptr<std::atomic<uint64_t>> changes_ = std::make_shared<std::atomic<uint64_t>>(0);
};

struct Shared {
  explicit Shared(Occupancy& o) : o_(o) { o_.enter_shared(); }
  ~Shared() { o_.leave_shared(); }
  Shared(const Shared&) = delete;
  Occupancy& o_;
};

struct Exclusive {
  explicit Exclusive(Occupancy& o, Writes what = Writes::others) : o_(o) { o_.enter_exclusive(what); }
  ~Exclusive() { o_.leave_exclusive(); }
  Exclusive(const Exclusive&) = delete;
  Occupancy& o_;
};

}  // namespace fp
