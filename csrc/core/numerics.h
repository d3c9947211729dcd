// exp, log1p and the logistic function's parts, written so that compilers can vectorise them.
//
// float: polynomials within 1 ulp or two (CUDA: the special-function unit for exp2 and 1/x).
// double: the C library; it serves gradcheck, not speed.
#pragma once

#include <math.h>

#include <cstdint>
#include <cstring>

#include "macros.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

template <class T, int N>
struct Array {
  T v[N > 0 ? N : 1];
  MLLOSS_HD T& operator[](int i) { return v[i]; }
  MLLOSS_HD const T& operator[](int i) const { return v[i]; }
};

template <class To, class From>
MLLOSS_HD To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast needs equal sizes");
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

template <class T>
MLLOSS_HD T maximum(T a, T b) {
  return a > b ? a : b;  // a NaN in `a` loses: sums carry NaN, maxima need not
}

template <class T>
MLLOSS_HD T absolute(T x) {
  return x < T(0) ? -x : x;
}

// x, or `most` if that is less; what comes of NaN does not matter.
template <class T>
MLLOSS_HD T at_most(T x, T most) {
#ifdef __CUDA_ARCH__
  return fmin(x, most);
#else
  return x > most ? most : x;
#endif
}

MLLOSS_HD float reciprocal(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#elif defined(CUEMU)
  const float y = 1.0f / x;
  return absolute(y) < 1.17549435e-38f ? 0.0f : y;
#else
  return 1.0f / x;
#endif
}
MLLOSS_HD double reciprocal(double x) { return 1.0 / x; }

#ifdef __CUDA_ARCH__
MLLOSS_HD float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
#elif defined(CUEMU)
MLLOSS_HD float exp2_approximate(float x) {
  const float y = exp2f(x);
  return y < 1.17549435e-38f ? 0.0f : y;
}
#endif

// e^x. Results below the smallest normal number are 0.
MLLOSS_HD float exponential(float x) {
  constexpr float kLog2e = 1.44269504088896341f;
#if defined(__CUDA_ARCH__) || defined(CUEMU)
  // The product's rounding costs |x| * 6e-8: what a softmax in float loses in x - log(sum).
  return exp2_approximate(x * kLog2e);
#else
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest integer
  constexpr float kHigh = 0.693359375f, kLow = -2.12194440e-4f;
  const float shifted = x * kLog2e + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * kHigh) - n * kLow;
  float p = 1.39411188958e-3f;
  p = p * r + 8.37513477462e-3f;
  p = p * r + 4.16663527711e-2f;
  p = p * r + 1.66664154140e-1f;
  p = p * r + 5.00000004715e-1f;
  p = p * r + 1.00000003774f;
  p = p * r + 1.0f;
  // 2^(n-1), then twice that: 2^128 has no float of its own.
  const uint32_t bits = (bit_cast<uint32_t>(shifted) + 126u) << 23;
  const float y = 2.0f * p * bit_cast<float>(bits);
  const float low = x < -86.6f ? 0.0f : y;
  return x > 88.72283f ? INFINITY : low;
#endif
}
MLLOSS_HD double exponential(double x) { return exp(x); }

// 2 atanh(u) / u for u^2 in [0, 1/9], relative error 4e-9.
MLLOSS_HD float two_atanh_over(float u2) {
  float p = 0.281577783632f;
  p = p * u2 + 0.279651577452f;
  p = p * u2 + 0.400245952308f;
  p = p * u2 + 0.666663216414f;
  return p * u2 + 2.00000000768f;
}

// log(x) for normal x > 0, -inf at 0.
MLLOSS_HD float logarithm(float x) {
  const int32_t bits = bit_cast<int32_t>(x);
  // The exponent that leaves a mantissa in [sqrt(1/2), sqrt(2)).
  const int32_t exponent = (bits - 0x3f3504f3) >> 23;
  const float m = bit_cast<float>(bits - exponent * (1 << 23));  // a shift of a negative is undefined
  const float u = (m - 1.0f) * reciprocal(m + 1.0f);
  const float y = static_cast<float>(exponent) * 0.69314718056f + u * two_atanh_over(u * u);
  return x < 1.17549435e-38f ? -INFINITY : y;
}
MLLOSS_HD double logarithm(double x) { return log(x); }

// -log(1 - u) / u for u in [0, 1), from u and `rest` = 1 - u: 1 at 0, where the quotient is lost.
MLLOSS_HD float minus_log_over(float u, float rest) {
  const float inverse = reciprocal(2.0f - u), v = u * inverse;
  const float near = inverse * two_atanh_over(v * v);
  const float far = -logarithm(rest) * reciprocal(u);
  return u > 0.5f ? far : near;
}
MLLOSS_HD double minus_log_over(double u, double rest) {
  return u > 0.5 ? -log(rest) / u : u > 0.0 ? -log1p(-u) / u : 1.0;
}

// 1 - e^-d for d >= 0: near 0 a series, where the difference is lost.
MLLOSS_HD float one_minus_exp(float d) {
  float p = 1.98412698413e-4f;
  p = p * d - 1.38888888889e-3f;
  p = p * d + 8.33333333333e-3f;
  p = p * d - 4.16666666667e-2f;
  p = p * d + 1.66666666667e-1f;
  p = p * d - 0.5f;
  p = p * d + 1.0f;
  const float far = 1.0f - exponential(-d);
  return d < 0.35f ? d * p : far;
}
MLLOSS_HD double one_minus_exp(double d) { return -expm1(-d); }

// 1 for equal arguments, infinite ones included: the definition's limit, where exp(inf - inf) is NaN.
template <class T>
MLLOSS_HD T exp_difference(T x, T m) {
  return x == m ? T(1) : exponential(x - m);
}

// log(x) and log1p(x) for x >= 0 in finalisations: once a row, so precision before speed.
MLLOSS_HD float log_positive(float x) { return logf(x); }
MLLOSS_HD double log_positive(double x) { return log(x); }
MLLOSS_HD float log1p_positive(float x) { return log1pf(x); }
MLLOSS_HD double log1p_positive(double x) { return log1p(x); }
MLLOSS_HD float expm1_any(float x) { return expm1f(x); }
MLLOSS_HD double expm1_any(double x) { return expm1(x); }

// What losses take from the logistic function at z, from one exp and one division.
template <class T>
struct Logistic {
  T sigmoid;           // 1 / (1 + e^-z)
  T sigmoid_negated;   // 1 / (1 + e^z), exact where 1 - sigmoid cancels
  T softplus;          // log(1 + e^z)
  T softplus_negated;  // log(1 + e^-z)
};

// 1 / (1 + e^-z) alone, and its derivative: less work. What comes of NaN in the derivative does not matter.
template <class T>
MLLOSS_HD T sigmoid(T z) {
  return reciprocal(T(1) + exponential(-z));
}

template <class T>
struct SigmoidAndSlope {
  T sigmoid, slope;
};

template <class T>
MLLOSS_HD SigmoidAndSlope<T> sigmoid_and_slope(T z) {
  const T t = exponential(-absolute(z));
  const T r = reciprocal(T(1) + t), tr = t * r;
  return {z >= T(0) ? r : tr, r * tr};
}

#if defined(__CUDA_ARCH__) || defined(CUEMU)
// Fewer instructions, where results below the smallest normal number are flushed to 0.
template <>
MLLOSS_HD SigmoidAndSlope<float> sigmoid_and_slope(float z) {
  const float e = exponential(at_most(-z, 88.0f));  // no inf * 0
  const float p = reciprocal(1.0f + e);
  return {p, e * p * p};
}
#endif

MLLOSS_HD Logistic<float> logistic(float z) {
  const float t = exponential(-absolute(z));
  const float one = 1.0f + t, two = 2.0f + t;
  const float inverse = reciprocal(one * two);
  const float r = inverse * two;      // 1 / (1 + t)
  const float u = t * inverse * one;  // t / (2 + t)
  const float l = u * two_atanh_over(u * u);
  const float tr = t * r;
  const bool up = z >= 0.0f;
  return {up ? r : tr, up ? tr : r, (up ? z : 0.0f) + l, (up ? 0.0f : -z) + l};
}

MLLOSS_HD Logistic<double> logistic(double z) {
  const double t = exp(-absolute(z));
  const double r = 1.0 / (1.0 + t), l = log1p(t);
  const bool up = z >= 0.0;
  return {up ? r : t * r, up ? t * r : r, (up ? z : 0.0) + l, (up ? 0.0 : -z) + l};
}

}  // namespace MLLOSS_ISA
}  // namespace mlloss
