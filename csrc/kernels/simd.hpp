// Vectors, written once. Vec<T> is one register of T (float or double), Mask<T> a truth value per lane. Everything
// lives in fp::<instruction set> and is always inlined, so the linker can never hand code of one instruction set to
// another.
//
// Compile with exactly one of FP_ISA_GENERIC, FP_ISA_AVX2, FP_ISA_AVX512, FP_ISA_NEON, or with FP_ISA_AVX512_BF16 or
// FP_ISA_AMX, which are AVX-512 in a namespace of their own. What GCC's and Clang's vector
// types can express stands here; simd_<isa>.hpp supplies the rest: fma, masks, parts of a register, and max and min
// where they are one instruction.
//
//   load(p) store(p, v)            unaligned
//   load_part(p, n), store_part    the first n lanes (0 <= n <= lanes), others zero; touches nothing past n
//   broadcast(x), zero<T>()
//   fma(a,b,c) = a b + c, fms = a b - c, fnma = c - a b      one rounding (generic: two)
//   add sub mul div neg abs copysign(magnitude, sign)
//   max(a,b) = a > b ? a : b       so b when either is NaN or both are zeros; min(a,b) = a < b ? a : b likewise; where
//                                  subnormals count as zeros, they may become zeros
//   lt le gt ge eq                 false when either is NaN;  is_nan
//   select(m, a, b)                m ? a : b;  mask_or, mask_first<T>(n)
//   lower(v), widened(half)        the first half of a register, and a register of half and zeros; half_broadcast(x)
//   gather_half<n>(p, stride)      n elements in half a register, others zero; load_half<n>(p): side by side
//   turn(a, a_row, t)              t[q] = elements q of as many rows as half a register has elements, on AVX2 also as
//                                  a whole one has; q < 4
//                                  (load_half and turn only where kThin holds, see kernels/gemm_thin.hpp)
//   nonzeros(v)                    a bit for each lane that is not zero (NaN is not)
//   nonzeros_of_64(p)              the same of 64 elements
//   any_negative_zero(a)           of several registers
//                                  (these three only where kSparse holds, see kernels/gemm_sparse.hpp)
//   exp2_int(v)                    2^v for integral v, -126..127 (float) or -1022..1023 (double)
//   exponent(v), mantissa(v)       v = mantissa 2^exponent, mantissa in [1, 2), for positive normal v
//   bit_and bit_or bit_xor bit_andnot(a, b) = a & ~b, shift_left<s>, shift_right<s>      of the representations
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/inline.hpp"

#if defined(__clang__)
#define FP_UNROLL _Pragma("clang loop unroll(full)")
#else
#define FP_UNROLL _Pragma("GCC unroll 16")
#endif

#if defined(FP_ISA_AVX512_BF16)
#define FP_ISA_AVX512
#define FP_ISA_NAMESPACE avx512_bf16
#define FP_VECTOR_BYTES 64
#elif defined(FP_ISA_AMX)
#define FP_ISA_AVX512
#if defined(FP_AMX_SOFTWARE)
#define FP_ISA_NAMESPACE amx_software
#else
#define FP_ISA_NAMESPACE amx
#endif
#define FP_VECTOR_BYTES 64
#elif defined(FP_ISA_AVX512)
#define FP_ISA_NAMESPACE avx512
#define FP_VECTOR_BYTES 64
#elif defined(FP_ISA_AVX2)
#define FP_ISA_NAMESPACE avx2
#define FP_VECTOR_BYTES 32
#elif defined(FP_ISA_NEON)
#define FP_ISA_NAMESPACE neon
#define FP_VECTOR_BYTES 16
#elif defined(FP_ISA_GENERIC)
#define FP_ISA_NAMESPACE generic
#define FP_VECTOR_BYTES 16
#else
#error "define one of FP_ISA_GENERIC, FP_ISA_AVX2, FP_ISA_AVX512, FP_ISA_NEON"
#endif

// The namespace's name as text, and at the end of the one symbol that an object exports.
#define FP_TEXT_OF(name) #name
#define FP_TEXT(name) FP_TEXT_OF(name)
#define FP_ISA_NAME FP_TEXT(FP_ISA_NAMESPACE)
#define FP_JOINED_OF(prefix, name) prefix##name
#define FP_JOINED(prefix, name) FP_JOINED_OF(prefix, name)
#define FP_ISA_SYMBOL(prefix) FP_JOINED(prefix, FP_ISA_NAMESPACE)

namespace fp::FP_ISA_NAMESPACE {

template <class T>
struct Vec;

// F: the register; I: the same bits as signed integers, U: as unsigned ones.
template <>
struct Vec<float> {
  typedef float F __attribute__((vector_size(FP_VECTOR_BYTES)));
  typedef int32_t I __attribute__((vector_size(FP_VECTOR_BYTES)));
  typedef uint32_t U __attribute__((vector_size(FP_VECTOR_BYTES)));
  using Bits = uint32_t;
  static constexpr int lanes = FP_VECTOR_BYTES / 4;
  static constexpr int mantissa_bits = 23, bias = 127;
  static constexpr float two_mantissa = 8388608.0f;  // 2^23
  F v;
};

template <>
struct Vec<double> {
  typedef double F __attribute__((vector_size(FP_VECTOR_BYTES)));
  typedef int64_t I __attribute__((vector_size(FP_VECTOR_BYTES)));
  typedef uint64_t U __attribute__((vector_size(FP_VECTOR_BYTES)));
  using Bits = uint64_t;
  static constexpr int lanes = FP_VECTOR_BYTES / 8;
  static constexpr int mantissa_bits = 52, bias = 1023;
  static constexpr double two_mantissa = 4503599627370496.0;  // 2^52
  F v;
};

// Half a register, which costs half where the processor works on halves one after the other; see kHalves.
template <class T>
struct Half {
  typedef T F __attribute__((vector_size(FP_VECTOR_BYTES / 2)));
  F v;
};

template <class T>
FP_INLINE Vec<T> load(const T* p) {
  Vec<T> r;
  __builtin_memcpy(&r.v, p, sizeof r.v);
  return r;
}
template <class T>
FP_INLINE void store(T* p, Vec<T> a) {
  __builtin_memcpy(p, &a.v, sizeof a.v);
}
template <class T>
FP_INLINE Vec<T> zero() {
  return {typename Vec<T>::F{}};
}
// x minus a vector of zeros keeps -0 and NaN, and compilers turn it into one broadcast.
template <class T>
FP_INLINE Vec<T> broadcast(T x) {
  return {x - typename Vec<T>::F{}};
}

template <class T>
FP_INLINE Half<T> half_broadcast(T x) {
  return {x - typename Half<T>::F{}};
}
template <class T>
FP_INLINE Half<T> lower(Vec<T> a) {
  Half<T> r;
  __builtin_memcpy(&r.v, &a.v, sizeof r.v);
  return r;
}

template <int n, class T>
FP_INLINE Half<T> gather_half(const T* p, int64_t stride) {
  Half<T> r{};
  FP_UNROLL for (int i = 0; i < n; ++i) r.v[i] = p[i * stride];
  return r;
}

template <class T>
FP_INLINE Vec<T> add(Vec<T> a, Vec<T> b) {
  return {a.v + b.v};
}
template <class T>
FP_INLINE Vec<T> sub(Vec<T> a, Vec<T> b) {
  return {a.v - b.v};
}
template <class T>
FP_INLINE Vec<T> mul(Vec<T> a, Vec<T> b) {
  return {a.v * b.v};
}
template <class T>
FP_INLINE Vec<T> div(Vec<T> a, Vec<T> b) {
  return {a.v / b.v};
}

template <class T>
FP_INLINE typename Vec<T>::U bits(Vec<T> a) {
  return (typename Vec<T>::U)a.v;
}
template <class T>
FP_INLINE Vec<T> from_bits(typename Vec<T>::U u) {
  return {(typename Vec<T>::F)u};
}
template <class T>
FP_INLINE Vec<T> broadcast_bits(typename Vec<T>::Bits u) {
  return from_bits<T>(u - typename Vec<T>::U{});
}
template <class T>
FP_INLINE Vec<T> bit_and(Vec<T> a, Vec<T> b) {
  return from_bits<T>(bits(a) & bits(b));
}
template <class T>
FP_INLINE Vec<T> bit_or(Vec<T> a, Vec<T> b) {
  return from_bits<T>(bits(a) | bits(b));
}
template <class T>
FP_INLINE Vec<T> bit_xor(Vec<T> a, Vec<T> b) {
  return from_bits<T>(bits(a) ^ bits(b));
}
template <class T>
FP_INLINE Vec<T> bit_andnot(Vec<T> a, Vec<T> b) {
  return from_bits<T>(bits(a) & ~bits(b));
}
template <int s, class T>
FP_INLINE Vec<T> shift_left(Vec<T> a) {
  return from_bits<T>(bits(a) << s);
}
template <int s, class T>
FP_INLINE Vec<T> shift_right(Vec<T> a) {
  return from_bits<T>(bits(a) >> s);
}

template <class T>
FP_INLINE Vec<T> sign_bit() {
  return broadcast_bits<T>(typename Vec<T>::Bits(1) << (sizeof(T) * 8 - 1));
}
template <class T>
FP_INLINE Vec<T> neg(Vec<T> a) {
  return bit_xor(a, sign_bit<T>());
}
template <class T>
FP_INLINE Vec<T> abs(Vec<T> a) {
  return bit_andnot(a, sign_bit<T>());
}
template <class T>
FP_INLINE Vec<T> copysign(Vec<T> magnitude, Vec<T> sign) {
  return bit_or(abs(magnitude), bit_and(sign, sign_bit<T>()));
}

// v + 1.5 2^mantissa_bits holds v, in two's complement, in its low bits; the shift drops all others.
template <class T>
FP_INLINE Vec<T> exp2_int(Vec<T> v) {
  constexpr T magic = T(1.5) * Vec<T>::two_mantissa + Vec<T>::bias;
  return shift_left<Vec<T>::mantissa_bits>(add(v, broadcast(magic)));
}
template <class T>
FP_INLINE Vec<T> exponent(Vec<T> v) {
  constexpr T magic = Vec<T>::two_mantissa;
  Vec<T> biased = bit_or(shift_right<Vec<T>::mantissa_bits>(v), broadcast(magic));
  return sub(biased, broadcast(magic + Vec<T>::bias));
}
template <class T>
FP_INLINE Vec<T> mantissa(Vec<T> v) {
  constexpr typename Vec<T>::Bits field = (typename Vec<T>::Bits(1) << Vec<T>::mantissa_bits) - 1;
  return bit_or(bit_and(v, broadcast_bits<T>(field)), broadcast(T(1)));
}

}  // namespace fp::FP_ISA_NAMESPACE

#if defined(FP_ISA_AVX512)
#include "kernels/simd_avx512.hpp"
#elif defined(FP_ISA_AVX2)
#include "kernels/simd_avx2.hpp"
#elif defined(FP_ISA_NEON)
#include "kernels/simd_neon.hpp"
#else
#include "kernels/simd_generic.hpp"
#endif

namespace fp::FP_ISA_NAMESPACE {

#if !defined(FP_ISA_AVX512) && !defined(FP_ISA_AVX2)
template <class T>
FP_INLINE Vec<T> max(Vec<T> a, Vec<T> b) {
  return select(gt(a, b), a, b);
}
template <class T>
FP_INLINE Vec<T> min(Vec<T> a, Vec<T> b) {
  return select(lt(a, b), a, b);
}
#endif

// The 16 virtual lanes of every reduction that is not a dense product: lane j takes elements j, j + 16, ...
template <class T>
struct Wide {
  static constexpr int registers = 16 / Vec<T>::lanes;
  Vec<T> r[registers];
};

template <class T>
FP_INLINE Wide<T> wide_broadcast(T x) {
  Wide<T> w;
  for (int i = 0; i < Wide<T>::registers; ++i) w.r[i] = broadcast(x);
  return w;
}
template <class T>
FP_INLINE Wide<T> wide_load(const T* p) {
  Wide<T> w;
  for (int i = 0; i < Wide<T>::registers; ++i) w.r[i] = load(p + i * Vec<T>::lanes);
  return w;
}
template <class T>
FP_INLINE void wide_store(T* p, const Wide<T>& w) {
  for (int i = 0; i < Wide<T>::registers; ++i) store(p + i * Vec<T>::lanes, w.r[i]);
}
}  // namespace fp::FP_ISA_NAMESPACE
