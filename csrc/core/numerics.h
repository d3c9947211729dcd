// exp, log1p and the parts of the logistic function, written so that compilers can vectorise them.
//
// float: polynomials within 1 or 2 ulp (CUDA: the special-function unit for exp2 and 1/x).
// double: the C library, because double serves gradcheck and not speed.
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

constexpr float kLog2e = 1.44269504088896341f, kLn2 = 0.69314718056f;

template <class To, class From>
MLLOSS_HD To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast needs equal sizes");
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

template <class T>
MLLOSS_HD T maximum(T a, T b) {
  return a > b ? a : b;  // b if `a` is NaN; maxima need not carry NaN, because sums do
}

// fabs is one instruction, or none on CUDA; GCC takes three for a comparison and a select.
template <class T>
MLLOSS_HD T absolute(T x) {
  return fabs(x);
}

// Returns a b + c, rounded once if the processor can. Compilers alone fuse the two or not, depending on other uses of
// the product.
template <class T>
MLLOSS_HD T multiply_add(T a, T b, T c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA) || defined(__CUDA_ARCH__)
  return fma(a, b, c);
#else
  return a * b + c;
#endif
}

// Returns x, or `most` if that is less. A NaN stays NaN, which fmin and PTX's min do not do.
template <class T>
MLLOSS_HD T at_most(T x, T most) {
#ifdef __CUDA_ARCH__
  if constexpr (sizeof(T) == 4) {
    T y;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(x), "f"(most));
    return y;
  }
#endif
  return x > most ? most : x;
}

// Returns x, or `least` if that is more. A NaN stays NaN.
template <class T>
MLLOSS_HD T at_least(T x, T least) {
#ifdef __CUDA_ARCH__
  if constexpr (sizeof(T) == 4) {
    T y;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(x), "f"(least));
    return y;
  }
#endif
  return x < least ? least : x;
}

// The smaller and the larger of two numbers that are not both negative, for callers whose result has a NaN anyway: the
// CPU may lose one here. The bits of such numbers have the same order, and GCC has vector instructions for the minima
// and maxima of integers, but none that keep a NaN. SSE2 has no such instructions.
MLLOSS_HD float smaller(float a, float b) {
#ifdef __CUDA_ARCH__
  return at_most(a, b);
#elif defined(__x86_64__) && !defined(__SSE4_1__)
  return a < b ? a : b;
#else
  const int32_t x = bit_cast<int32_t>(a), y = bit_cast<int32_t>(b);
  return bit_cast<float>(x < y ? x : y);
#endif
}
MLLOSS_HD float larger(float a, float b) {
#ifdef __CUDA_ARCH__
  return at_least(a, b);
#elif defined(__x86_64__) && !defined(__SSE4_1__)
  return a > b ? a : b;
#else
  const int32_t x = bit_cast<int32_t>(a), y = bit_cast<int32_t>(b);
  return bit_cast<float>(x > y ? x : y);
#endif
}
MLLOSS_HD double smaller(double a, double b) { return a < b ? a : b; }
MLLOSS_HD double larger(double a, double b) { return a > b ? a : b; }

#ifdef CUEMU
// Simulates an approximate instruction: returns a float within `most` units in the last place of the correctly rounded
// `exact`. The argument's bits choose the error, so a repeated call has the same result. Results below the smallest
// normal number are 0; 0, infinity and NaN are exact.
MLLOSS_HD float approximated(float argument, float exact, int most) {
  if (!(absolute(exact) >= 1.17549435e-38f)) return exact == exact ? 0.0f * exact : exact;
  if (absolute(exact) == INFINITY) return exact;
  uint32_t hash = bit_cast<uint32_t>(argument) * 0x9e3779b1u;
  hash = (hash ^ (hash >> 15)) * 0x85ebca77u;
  hash ^= hash >> 13;
  const int error = static_cast<int>(hash % static_cast<uint32_t>(2 * most + 1)) - most;
  return bit_cast<float>(bit_cast<uint32_t>(exact) + static_cast<uint32_t>(error));
}
#endif

// rcp.approx.ftz on CUDA, within 1 ulp according to the PTX manual. The kernels take it to be exact for powers of two,
// so that the sigmoid of +inf is 1. The manual does not say so; tests/test_edges.py and tests/test_limits.py check it.
MLLOSS_HD float reciprocal(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#elif defined(CUEMU)
  const float flushed_x = absolute(x) < 1.17549435e-38f ? 0.0f * x : x;
  const bool power_of_two = (bit_cast<uint32_t>(x) & 0x7fffffu) == 0;
  return power_of_two ? approximated(x, 1.0f / flushed_x, 0) : approximated(x, 1.0f / flushed_x, 1);
#else
  return 1.0f / x;
#endif
}
MLLOSS_HD double reciprocal(double x) { return 1.0 / x; }

// Smaller numbers count as 0: near the smallest normal number, and in float e^-86.6. exponential() returns 0 from the
// same limit on.
template <class T>
constexpr T kVanishing = sizeof(T) == 4 ? T(2.445e-38) : T(2.3e-308);

// Returns x >= 0, or in float 0 if it vanishes.
template <class T>
MLLOSS_HD T flushed(T x) {
  return sizeof(T) == 4 && x < kVanishing<T> ? T(0) : x;
}

// ex2.approx.ftz: within 2 ulp according to the PTX manual; exactly 1 at 0.
#ifdef __CUDA_ARCH__
MLLOSS_HD float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
#elif defined(CUEMU)
MLLOSS_HD float exp2_approximate(float x) {
  return x == 0.0f ? 1.0f : approximated(x, static_cast<float>(exp2(static_cast<double>(x))), 2);
}
#endif

#if !defined(__CUDA_ARCH__) && !defined(CUEMU)
// Above this number, e^x is infinite: 2^128 is not a float. Sums of terms as large are taken again with their maxima.
constexpr float kLargestExponent = 88.37f;

// Returns e^x for x <= kLargestExponent. The polynomial uses Estrin's scheme, whose short chains of operations overlap.
MLLOSS_HD float exponential_unless_large(float x) {
  // Adding kRound rounds to the nearest integer, n. The last bits of the sum are the exponent of 2^n.
  constexpr float kRound = 12582912.0f + 127.0f;  // 1.5 * 2^23
  constexpr float kHigh = 0.693359375f, kLow = -2.12194440e-4f;
  const float shifted = multiply_add(x, kLog2e, kRound);
  const float n = shifted - kRound;
  const float r = multiply_add(-n, kLow, multiply_add(-n, kHigh, x)), r2 = r * r;
  const float high = multiply_add(multiply_add(1.39411188958e-3f, r, 8.37513477462e-3f), r, 4.16663527711e-2f);
  const float middle = multiply_add(1.6666415414e-1f, r, 0.5f);
  const float rest = multiply_add(multiply_add(high, r2, middle), r2, r);  // e^r - 1
  const float scale = bit_cast<float>(bit_cast<uint32_t>(shifted) << 23);
  const float y = multiply_add(rest, scale, scale);
  return x < -86.6f ? 0.0f : y;
}
#endif

// Returns 2^x. A NaN stays NaN.
MLLOSS_HD float power_of_two(float x) {
#if defined(__CUDA_ARCH__) || defined(CUEMU)
  return exp2_approximate(x);
#else
  return exp2f(x);
#endif
}

// lg2.approx.ftz: within 2^-22 for x in (1/2, 2), according to the PTX manual, and relatively elsewhere.
MLLOSS_HD float log2_approximate(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#elif defined(CUEMU)
  const float exact = static_cast<float>(log2(static_cast<double>(x)));
  const float unit = x > 0.5f && x < 2.0f ? 1.0f : absolute(exact);
  return exact + (approximated(x, 1.0f, 2) - 1.0f) * unit;  // an error of at most 2^-22 times the unit
#else
  return log2f(x);
#endif
}

// Returns e^x. Results below the smallest normal number are 0.
MLLOSS_HD float exponential(float x) {
#if defined(__CUDA_ARCH__) || defined(CUEMU)
  // The rounding of the product is an error of |x| * 6e-8, as large as that of x - log(sum) in a softmax in float.
  return exp2_approximate(x * kLog2e);
#else
  const float y = exponential_unless_large(x);
  return x > kLargestExponent ? INFINITY : y;
#endif
}
MLLOSS_HD double exponential(double x) { return exp(x); }

// Returns 2 atanh(u) / u for u^2 in [0, 1/9], with a relative error of 4e-9.
MLLOSS_HD float two_atanh_over(float u2) {
  float p = 0.281577783632f;
  p = p * u2 + 0.279651577452f;
  p = p * u2 + 0.400245952308f;
  p = p * u2 + 0.666663216414f;
  return p * u2 + 2.00000000768f;
}

// Returns log(x) for normal x > 0, and -inf at 0.
MLLOSS_HD float logarithm(float x) {
  const int32_t bits = bit_cast<int32_t>(x);
  // This exponent leaves a mantissa in [sqrt(1/2), sqrt(2)).
  const int32_t exponent = (bits - 0x3f3504f3) >> 23;
  const float m = bit_cast<float>(bits - exponent * (1 << 23));  // shifting a negative number is undefined
  const float u = (m - 1.0f) * reciprocal(m + 1.0f);
  const float y = static_cast<float>(exponent) * 0.69314718056f + u * two_atanh_over(u * u);
  return x < 1.17549435e-38f ? -INFINITY : y;
}
MLLOSS_HD double logarithm(double x) { return log(x); }

// Returns log(1 + q) for q in [0, 2^100]. A small q is used directly, because 1 + q has lost its digits. A NaN stays
// NaN.
MLLOSS_HD float logarithm_of_one_plus(float q) {
  const int32_t bits = bit_cast<int32_t>(1.0f + q);
  const int32_t exponent = (bits - 0x3f3504f3) >> 23;
  const float m = bit_cast<float>(bits - exponent * (1 << 23));
  const float u = (exponent == 0 ? q : m - 1.0f) * reciprocal(m + 1.0f);
  return static_cast<float>(exponent) * 0.69314718056f + u * two_atanh_over(u * u) + (q - q);
}
MLLOSS_HD double logarithm_of_one_plus(double q) { return log1p(q); }

// Returns log(1 + q) for q in [0, 2^126] with a relative error of 1e-7, in fewer steps than logarithm_of_one_plus().
MLLOSS_HD float logarithm_of_product(float q) {
  const int32_t above = bit_cast<int32_t>(1.0f + q) - 0x3f3504f3, exponent = above >> 23;
  const float scale = bit_cast<float>(0x3f800000 - exponent * (1 << 23));  // 2^-exponent
  const float whole = bit_cast<float>(0x4b400000 + exponent) - 12582912.0f;
  const float u = multiply_add(q, scale, scale - 1.0f) * reciprocal(multiply_add(q, scale, scale + 1.0f)), u2 = u * u;
  float p = multiply_add(0.299286385501f, u2, 0.399746848398f);
  p = multiply_add(p, u2, 0.666668169244f);
  p = multiply_add(p, u2, 1.99999999861f);
  return multiply_add(whole, 0.69314718056f, u * p);
}

// Returns -log(1 - u) / u for u in [0, 1/2], and for u in [0, 1/4] with fewer terms.
MLLOSS_HD float minus_log_over_half(float u) {
  float p = multiply_add(1.4411078661f, u, -1.69581183182f);
  p = multiply_add(p, u, 1.25766963871f);
  p = multiply_add(p, u, -0.203538867805f);
  p = multiply_add(p, u, 0.269612727596f);
  p = multiply_add(p, u, 0.242805082994f);
  p = multiply_add(p, u, 0.333700614397f);
  p = multiply_add(p, u, 0.499992852561f);
  return multiply_add(p, u, 1.00000002273f);
}
MLLOSS_HD float minus_log_over_quarter(float u) {
  float p = multiply_add(0.333775435919f, u, 0.0896205723111f);
  p = multiply_add(p, u, 0.214224300702f);
  p = multiply_add(p, u, 0.2486938366f);
  p = multiply_add(p, u, 0.333389541179f);
  p = multiply_add(p, u, 0.499999101463f);
  return multiply_add(p, u, 1.00000000233f);
}

// Returns -log(1 - u) for u in [0, 1/2], within 1 ulp: a polynomial by Estrin's scheme, without a division.
MLLOSS_HD float minus_log_of_rest(float u) {
  const float u2 = u * u, u4 = u2 * u2;
  const float low = (0.269612759f * u + 0.242805079f) * u2 + (0.333700627f * u + 0.499992847f);
  const float high = (1.44110799f * u + -1.69581211f) * u2 + (1.25766981f * u + -0.203538984f);
  return (high * u4 + low) * u2 + u;
}
MLLOSS_HD double minus_log_of_rest(double u) { return -log1p(-u); }

// Returns -log(1 - u) for u in [0, 1], from u and `rest` = 1 - u, each in its own precision. The result is finite at
// rest = 0.
MLLOSS_HD float minus_log_of(float u, float rest) {
  // A rest that was rounded to 1 or slightly above counts as the number just below 1.
  const int32_t bits = bit_cast<int32_t>(rest) - 1;
  const int32_t all = 126 - (bits >> 23), halvings = all > 0 ? all : 0;
  const float mantissa = bit_cast<float>((bits & 0x007fffff) | 0x3f000000);  // rest * 2^halvings, from 1/2 to 1
  return static_cast<float>(halvings) * 0.69314718056f + minus_log_of_rest(halvings > 0 ? 1.0f - mantissa : u);
}
MLLOSS_HD double minus_log_of(double u, double rest) {
  return rest > 0.5 ? -log1p(-u) : -log(maximum(rest, 2.2250738585072014e-308));
}

// Returns -log(1 - u) / u for u in [0, 1), from u and `rest` = 1 - u, and 1 at 0, where the quotient is undefined.
MLLOSS_HD float minus_log_over(float u, float rest) {
  const float inverse = reciprocal(2.0f - u), v = u * inverse;
  const float near = inverse * two_atanh_over(v * v);
  const float far = -logarithm(rest) * reciprocal(u);
  return u > 0.5f ? far : near;
}
MLLOSS_HD double minus_log_over(double u, double rest) {
  return u > 0.5 ? -log(rest) / u : u > 0.0 ? -log1p(-u) / u : 1.0;
}

// one_minus_exp_near(d) is 1 - e^-d for d in [0, kNear): a polynomial, because the difference would cancel. Its
// relative error is 1.5e-8.
template <class T>
constexpr T kNear = T(0.35);

MLLOSS_HD float one_minus_exp_near(float d) {
  float p = 7.231935571663e-3f;
  p = p * d - 4.134865101495e-2f;
  p = p * d + 1.666298692782e-1f;
  p = p * d - 4.999986625607e-1f;
  return d * (p * d + 1.0f);
}
MLLOSS_HD double one_minus_exp_near(double d) { return -expm1(-d); }

// Returns e^(x - m), and 1 for equal arguments, infinite ones included: the limit of the definition, where exp(inf -
// inf) is NaN.
template <class T>
MLLOSS_HD T exp_difference(T x, T m) {
  return x == m ? T(1) : exponential(x - m);
}

// A number 0 <= x < 1024 and its two parts. `upper` is a multiple of 2^-12 in float (2^-41 in double), so sums of it up
// to 4096 are exact; `lower` is the rest, at most half of that step. If the parts are summed separately, tiny terms
// keep their digits beside large ones.
template <class T>
struct TwoParts {
  T whole, upper, lower;
};

template <class T>
MLLOSS_HD TwoParts<T> two_parts(T x) {
  constexpr T kRound = T(3072);  // 1.5 * 2^11: adding it rounds to that step
  const T upper = (x + kRound) - kRound;
  return {x, upper, x - upper};
}

// Returns the cap of a value that is multiplied by `factor`: the largest finite number if the factor is 0, so that a
// value of weight 0 contributes 0 even if it is infinite.
template <class T>
MLLOSS_HD T cap_of(T factor) {
  if constexpr (sizeof(T) == 4) {
    return factor == T(0) ? T(3.40282347e38f) : T(INFINITY);
  } else {
    return factor == T(0) ? T(1.7976931348623157e308) : T(INFINITY);
  }
}

// log(x) and log1p(x) for x >= 0. They are used once per row, so precision matters more than speed.
MLLOSS_HD float log_positive(float x) { return logf(x); }
MLLOSS_HD double log_positive(double x) { return log(x); }
MLLOSS_HD float log1p_positive(float x) { return log1pf(x); }
MLLOSS_HD double log1p_positive(double x) { return log1p(x); }

// Values of the logistic function at z, from one exp and one division.
template <class T>
struct Logistic {
  T sigmoid;           // 1 / (1 + e^-z)
  T sigmoid_negated;   // 1 / (1 + e^z), exact even if 1 - sigmoid cancels
  T softplus;          // log(1 + e^z)
  T softplus_negated;  // log(1 + e^-z)
};

// The logistic function at z and at -z, and `tail` = e^-|z|. The smaller of the two is the larger one times the tail.
template <class T>
struct LogisticTails {
  T sigmoid, sigmoid_negated, tail;
};

template <class T>
MLLOSS_HD LogisticTails<T> tails_from(T z, T tail, T inverse) {
  const T rest = tail * inverse;
  const bool up = z >= T(0);
  return {up ? inverse : rest, up ? rest : inverse, tail};
}

// 1 / (1 + e^-z) and its derivative, which is less work than Logistic.
template <class T>
struct SigmoidAndSlope {
  T sigmoid, slope;
};

// Returns them from `tail` = e^-|z|.
template <class T>
MLLOSS_HD SigmoidAndSlope<T> sigmoid_and_slope_from(T z, T tail) {
  const T inverse = reciprocal(T(1) + tail), rest = tail * inverse;
  return {z >= T(0) ? inverse : rest, rest * inverse};
}

// The parts that the logistic function's values at z and at -z are computed from.
template <class T>
struct LogisticParts {
  T sigmoid, sigmoid_negated;
  T l;  // log(1 + e^-|z|)
};

// Returns the values at z, or at -z if `negated`.
template <class T>
MLLOSS_HD Logistic<T> logistic_from(LogisticParts<T> parts, T z, bool negated) {
#ifdef __CUDA_ARCH__
  const T positive = z > T(0) ? z : T(0), negative = z > T(0) ? T(0) : -z;  // one comparison for both
#else
  const T positive = larger(z, T(0)), negative = larger(-z, T(0));  // a NaN shows in the other terms
#endif
  return {negated ? parts.sigmoid_negated : parts.sigmoid, negated ? parts.sigmoid : parts.sigmoid_negated,
          (negated ? negative : positive) + parts.l, (negated ? positive : negative) + parts.l};
}

#if defined(__CUDA_ARCH__) || defined(CUEMU)

// These functions are the CUDA variants of those below.
MLLOSS_HD float logistic_power(float z) { return exponential(at_most(z, 87.0f)); }
MLLOSS_HD double logistic_power(double z) { return exp(at_most(z, 709.0)); }
MLLOSS_HD float negated_power(float z) { return exponential(smaller(-z, 87.0f)); }
MLLOSS_HD double negated_power(double z) { return exp(smaller(-z, 709.0)); }
MLLOSS_HD float tail_power(float z) { return exponential(-absolute(z)); }
MLLOSS_HD double tail_power(double z) { return exp(-absolute(z)); }

// Returns p (1 - p), which is exactly 0 where logistic_power is at its cap: there the product is 1.6e-38.
MLLOSS_HD float slope_from(LogisticParts<float> parts) {
  return at_least(multiply_add(parts.sigmoid, parts.sigmoid_negated, -2e-38f), 0.0f);
}
MLLOSS_HD double slope_from(LogisticParts<double> parts) { return parts.sigmoid * parts.sigmoid_negated; }

MLLOSS_HD float sigmoid(float z) { return reciprocal(1.0f + exponential(-z)); }

MLLOSS_HD SigmoidAndSlope<float> sigmoid_and_slope(float z) {
  const float e = exponential(at_most(-z, 88.0f));  // the bound prevents inf * 0
  const float p = reciprocal(1.0f + e);
  return {p, e * p * p};
}

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

MLLOSS_HD double sigmoid(double z) { return 1.0 / (1.0 + exp(-z)); }

MLLOSS_HD SigmoidAndSlope<double> sigmoid_and_slope(double z) {
  const double t = exp(-absolute(z)), r = 1.0 / (1.0 + t), tr = t * r;
  return {z >= 0.0 ? r : tr, r * tr};
}

MLLOSS_HD Logistic<double> logistic(double z) {
  const double t = exp(-absolute(z));
  const double r = 1.0 / (1.0 + t), l = log1p(t);
  const bool up = z >= 0.0;
  return {up ? r : t * r, up ? t * r : r, (up ? z : 0.0) + l, (up ? 0.0 : -z) + l};
}

#else

// Returns e^z without overflow; other functions are computed from it.
MLLOSS_HD float logistic_power(float z) { return exponential_unless_large(at_most(z, 87.0f)); }
MLLOSS_HD double logistic_power(double z) { return exp(at_most(z, 709.0)); }

// Returns e^-z, at most e^87 in float. For NaN it may return any number, which saves an operation.
MLLOSS_HD float negated_power(float z) { return exponential_unless_large(smaller(-z, 87.0f)); }
MLLOSS_HD double negated_power(double z) { return exp(smaller(-z, 709.0)); }

// Returns e^-|z|.
MLLOSS_HD float tail_power(float z) { return exponential_unless_large(-absolute(z)); }
MLLOSS_HD double tail_power(double z) { return exp(-absolute(z)); }

// Returns sigmoid(z) and sigmoid(-z) from e^z.
template <class T>
MLLOSS_HD LogisticParts<T> sigmoids_from(T power) {
  const T rest = reciprocal(T(1) + power);
  return {power * rest, flushed(rest), T(0)};
}

// Returns p (1 - p). At the cap of logistic_power the second factor is 0.
template <class T>
MLLOSS_HD T slope_from(LogisticParts<T> parts) {
  return parts.sigmoid * parts.sigmoid_negated;
}

template <class T>
MLLOSS_HD T sigmoid(T z) {
  return sigmoids_from(logistic_power(z)).sigmoid;
}

template <class T>
MLLOSS_HD SigmoidAndSlope<T> sigmoid_and_slope(T z) {
  return sigmoid_and_slope_from(z, tail_power(z));
}

template <class T>
MLLOSS_HD Logistic<T> logistic(T z) {
  LogisticParts<T> parts = sigmoids_from(logistic_power(z));
  const T p = parts.sigmoid, q = parts.sigmoid_negated;
  parts.l = minus_log_of_rest(smaller(p, q));
  return logistic_from(parts, z, false);
}

#endif

template <class T>
MLLOSS_HD LogisticTails<T> logistic_tails(T z) {
  const T tail = tail_power(z);
  return tails_from(z, tail, reciprocal(T(1) + tail));
}

}  // namespace MLLOSS_ISA
}  // namespace mlloss
