// Arrays whose size is known when they are made; of zeros at first.
#pragma once

#include <cstddef>
#include <memory>

namespace fp {

// Few elements lie within it: nothing is allocated for them.
template <class X>
class Few {
 public:
  explicit Few(std::size_t size) : size_(size), more_(size > kWithin ? new X[size]() : nullptr) {}

  std::size_t size() const { return size_; }
  const X* data() const { return more_ ? more_.get() : within_; }
  X& operator[](std::size_t i) { return more_ ? more_[i] : within_[i]; }
  const X& operator[](std::size_t i) const { return data()[i]; }

 private:
  static constexpr std::size_t kWithin = 4;
  std::size_t size_;
  X within_[kWithin]{};
  std::unique_ptr<X[]> more_;
};

// The same for a size of one that the compiler knows.
template <class X>
class Single {
 public:
  explicit Single(std::size_t) {}

  static constexpr std::size_t size() { return 1; }
  const X* data() const { return &x_; }
  X& operator[](std::size_t) { return x_; }
  const X& operator[](std::size_t) const { return x_; }

 private:
  X x_{};
};

}  // namespace fp
