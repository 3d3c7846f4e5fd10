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

// Counts readers, or one writer; forgets the holders of the parent after a fork, but for those of the thread that
// forked.
class Occupancy {
 public:
  // How many writers of parameters there have been. A copy of them that outlives the network can still ask.
  using Changes = std::shared_ptr<const std::atomic<uint64_t>>;
  Changes changes() const { return changes_; }

 private:
  friend class Hold;
  friend struct Exclusive;
  // Of one process, in one word, so that what a fork left behind is forgotten along with its process's number.
  struct Holders {
    int32_t process;
    int32_t count;
  };
  std::atomic<Holders> holders_{Holders{0, 0}};
  std::shared_ptr<std::atomic<uint64_t>> changes_ = std::make_shared<std::atomic<uint64_t>>(0);
};

// What a thread is in the middle of, and so is a child that it forks meanwhile: a signal's handler may do that.
class Hold {
 public:
  Hold(const Hold&) = delete;

 protected:
  static constexpr int32_t kReader = 1, kWriter = -1;
  Hold(Occupancy& o, int32_t holder);
  ~Hold();
  Occupancy& o_;

 private:
  const int32_t holder_;
  const Hold* const around_;
};

struct Shared : Hold {
  explicit Shared(Occupancy& o) : Hold(o, kReader) {}
};

struct Exclusive : Hold {
  explicit Exclusive(Occupancy& o, Writes what = Writes::others) : Hold(o, kWriter) {
    if (what == Writes::parameters) o_.changes_->fetch_add(1);
  }
};

}  // namespace fp
