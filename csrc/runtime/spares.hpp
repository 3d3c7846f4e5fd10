// What finished calls leave for the next ones, so that not each has to allocate. No locks: any thread may take and
// leave at any time, also around a fork.
#pragma once

#include <atomic>
#include <memory>
#include <utility>

namespace fp {

template <class X>
class Spares {
 public:
  Spares() = default;
  ~Spares() {
    for (auto& place : places_) delete place.exchange(nullptr);
  }
  Spares(const Spares&) = delete;

  // One for which fits(x), or nullptr. Those met before that do not fit are gone.
  template <class F>
  std::unique_ptr<X> take(F&& fits) {
    for (auto& place : places_) {
      std::unique_ptr<X> x(place.exchange(nullptr));
      if (x && fits(std::as_const(*x))) return x;
    }
    return nullptr;
  }
  // Kept where there is a place left.
  void leave(std::unique_ptr<X> x) {
    for (auto& place : places_) {
      X* empty = nullptr;
      if (!place.compare_exchange_strong(empty, x.get())) continue;
      x.release();
      return;
    }
  }

 private:
  std::atomic<X*> places_[8] = {};
};

}  // namespace fp
