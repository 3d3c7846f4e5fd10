// The floating-point control state of the calling thread while native code runs: round to nearest, no traps,
// subnormal results and operands are zero. Restored exactly, sticky exception flags included. Arithmetic belongs into a
// function called within its lifetime: the compiler may move what stands beside it.
#pragma once

#include <cstdint>

#if defined(__SSE2__) || defined(_M_X64)
#include <xmmintrin.h>
#define FP_STATE_MXCSR 1
#elif defined(__aarch64__)
#define FP_STATE_FPCR 1
#endif

namespace fp {

class FpState {
 public:
#if defined(FP_STATE_MXCSR)
  using Word = unsigned;
#elif defined(FP_STATE_FPCR)
  struct Word {
    uint64_t control, status;
  };
#else
  struct Word {};
#endif

  FpState() : FpState(native(true)) {}
  // For what has to run in another state, as the caller's code does.
  explicit FpState(Word word) : saved_(now()) { set(word); }
  ~FpState() { set(saved_); }
  FpState(const FpState&) = delete;
  FpState& operator=(const FpState&) = delete;

  // The same, but subnormal numbers are what they are.
  static Word gradual() { return native(false); }

  static Word now() {
#if defined(FP_STATE_MXCSR)
    return _mm_getcsr();
#elif defined(FP_STATE_FPCR)
    Word word;
    asm volatile("mrs %0, fpcr" : "=r"(word.control));
    asm volatile("mrs %0, fpsr" : "=r"(word.status));
    return word;
#else
    return {};
#endif
  }
  // The same as a number: control, and above it, where that is a register of its own, status.
  static uint64_t bits() {
    [[maybe_unused]] const Word word = now();
#if defined(FP_STATE_MXCSR)
    return word;
#elif defined(FP_STATE_FPCR)
    return word.status << 32 | word.control;
#else
    return 0;
#endif
  }

 private:
  static void set([[maybe_unused]] Word word) {
#if defined(FP_STATE_MXCSR)
    _mm_setcsr(word);
#elif defined(FP_STATE_FPCR)
    asm volatile("msr fpcr, %0" : : "r"(word.control));
    asm volatile("msr fpsr, %0" : : "r"(word.status));
#endif
  }
  static Word native([[maybe_unused]] bool flushes) {
#if defined(FP_STATE_MXCSR)
    constexpr Word kAllMasked = 0x1f80, kFlushToZero = 0x8000, kDenormalsAreZero = 0x0040;
    return flushes ? kAllMasked | kFlushToZero | kDenormalsAreZero : kAllMasked;
#elif defined(FP_STATE_FPCR)
    return {flushes ? uint64_t{1} << 24 : 0, 0};  // flush to zero
#else
    return {};
#endif
  }

  [[maybe_unused]] Word saved_;
};

}  // namespace fp
