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
  FpState() : saved_(_mm_getcsr()) { _mm_setcsr(kAllMasked | kFlushToZero | kDenormalsAreZero); }
  ~FpState() { _mm_setcsr(saved_); }
#elif defined(FP_STATE_FPCR)
  FpState() {
    asm volatile("mrs %0, fpcr" : "=r"(control_));
    asm volatile("mrs %0, fpsr" : "=r"(status_));
    asm volatile("msr fpcr, %0" : : "r"(kFlushToZero));
  }
  ~FpState() {
    asm volatile("msr fpcr, %0" : : "r"(control_));
    asm volatile("msr fpsr, %0" : : "r"(status_));
  }
#else
  FpState() {}
  ~FpState() {}
#endif
  FpState(const FpState&) = delete;
  FpState& operator=(const FpState&) = delete;

 private:
#if defined(FP_STATE_MXCSR)
  static constexpr unsigned kAllMasked = 0x1f80, kFlushToZero = 0x8000, kDenormalsAreZero = 0x0040;
  unsigned saved_;
#elif defined(FP_STATE_FPCR)
  static constexpr uint64_t kFlushToZero = uint64_t(1) << 24;
  uint64_t control_, status_;
#endif
};

}  // namespace fp
