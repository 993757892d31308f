// Arithmetic of CUDA C++ that C++ does not have. It does not depend on threads.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "vectors.h"

namespace fake {
template <class To, class From>
inline To bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    __builtin_memcpy(&to, &from, sizeof to);
    return to;
}
}  // namespace fake

namespace fake {
// A half's value. Numbers with the least exponent are subnormal: multiples of 2^-24.
inline float float_of(unsigned short half) {
    const unsigned sign = unsigned(half & 0x8000) << 16, exponent = half >> 10 & 31, fraction = half & 1023;
    if (exponent == 31) return bits<float>(sign | 0x7F800000u | fraction << 13);
    if (exponent == 0) return bits<float>(sign | bits<unsigned>(float(fraction) * 0x1p-24f));
    return bits<float>(sign | (exponent + 112) << 23 | fraction << 13);
}

// Nearest half, ties to even.
inline unsigned short half_of(float value) {
    const unsigned word = bits<unsigned>(value), sign = word >> 16 & 0x8000, size = word & 0x7FFFFFFF;
    if (size > 0x7F800000) return 0x7FFF;  // the device's NaN
    if (size >= 0x477FF000) return (unsigned short)(sign | 0x7C00);  // from 65520 on: infinite
    // Below 2^-14 the last place is 2^-24. The sum with 2^-1, whose last place that is, rounds to it.
    if (size < 0x38800000) return (unsigned short)(sign | (bits<unsigned>(bits<float>(size) + 0.5f) - 0x3F000000u));
    return (unsigned short)(sign | (size - 0x38000000u + 0xFFF + (size >> 13 & 1)) >> 13);
}
}  // namespace fake

// As on the device, min and max of mixed signedness are unsigned, and those of floats ignore a NaN.
#define FAKE_MIN_MAX(type)                                                   \
    inline type min(type a, type b) { return b < a ? b : a; }                \
    inline type max(type a, type b) { return a < b ? b : a; }
FAKE_MIN_MAX(int)
FAKE_MIN_MAX(unsigned)
FAKE_MIN_MAX(long)
FAKE_MIN_MAX(unsigned long)
FAKE_MIN_MAX(long long)
FAKE_MIN_MAX(unsigned long long)
#undef FAKE_MIN_MAX
inline unsigned min(int a, unsigned b) { return min(unsigned(a), b); }
inline unsigned min(unsigned a, int b) { return min(a, unsigned(b)); }
inline unsigned max(int a, unsigned b) { return max(unsigned(a), b); }
inline unsigned max(unsigned a, int b) { return max(a, unsigned(b)); }
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

// Correctly rounded operations. The host build never contracts a product and a sum, so plain operators suffice.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __frsqrt_rn(float a) { return float(1.0 / sqrt(double(a))); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double a) { return sqrt(a); }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }

// Exact functions in place of the device's approximations.
inline float rsqrtf(float a) { return __frsqrt_rn(a); }
inline float __expf(float a) { return expf(a); }
inline float __logf(float a) { return logf(a); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __saturatef(float a) { return a > 0 ? (a < 1 ? a : 1.0f) : 0.0f; }

inline unsigned __float_as_uint(float a) { return fake::bits<unsigned>(a); }
inline int __float_as_int(float a) { return fake::bits<int>(a); }
inline float __uint_as_float(unsigned a) { return fake::bits<float>(a); }
inline float __int_as_float(int a) { return fake::bits<float>(a); }
inline long long __double_as_longlong(double a) { return fake::bits<long long>(a); }
inline double __longlong_as_double(long long a) { return fake::bits<double>(a); }
inline int __float2int_rn(float a) { return int(nearbyintf(a)); }
inline int __float2int_rz(float a) { return int(a); }
inline unsigned __float2uint_rn(float a) { return unsigned(nearbyintf(a)); }
inline unsigned __float2uint_rz(float a) { return unsigned(a); }
inline float __int2float_rn(int a) { return float(a); }
inline float __uint2float_rn(unsigned a) { return float(a); }
inline float __double2float_rn(double a) { return float(a); }

inline int __popc(unsigned a) { return __builtin_popcount(a); }
inline int __popcll(unsigned long long a) { return __builtin_popcountll(a); }
inline int __clz(int a) { return a ? __builtin_clz(unsigned(a)) : 32; }
inline int __clzll(long long a) { return a ? __builtin_clzll((unsigned long long)a) : 64; }
inline int __ffs(int a) { return __builtin_ffs(a); }
inline int __ffsll(long long a) { return __builtin_ffsll(a); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline int __mulhi(int a, int b) { return int(int64_t(a) * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    return unsigned((uint64_t(high) << 32 | low) << (shift & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return unsigned((uint64_t(high) << 32 | low) >> (shift & 31));
}

// Cache hints have no effect.
template <class T> inline T __ldg(const T* p) { return *p; }
template <class T> inline T __ldca(const T* p) { return *p; }
template <class T> inline T __ldcg(const T* p) { return *p; }
template <class T> inline T __ldcs(const T* p) { return *p; }
template <class T> inline void __stwb(T* p, T value) { *p = value; }
template <class T> inline void __stcg(T* p, T value) { *p = value; }
template <class T> inline void __stcs(T* p, T value) { *p = value; }
