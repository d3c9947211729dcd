// ZLPR: log(1 + sum_P e^-s) + log(1 + sum_N e^s)   (Su et al. 2022, arXiv:2208.02955)
//
// Probabilities y weigh both sides: log(1 + sum y e^-s) + log(1 + sum (1-y) e^s).
#pragma once

#include "functor.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

template <class T>
class Zlpr : public GroupWise {
 public:
  static constexpr int kMaxima = 2, kSums = 2, kCoefficients = 4;  // [0] negatives, [1] positives

  explicit MLLOSS_HD Zlpr(const double*) {}

  // The 1 inside each log is e^0: a maximum never lies below 0.
  static MLLOSS_HD T initial_maximum() { return T(0); }

  template <class E>
  MLLOSS_HD void maxima(E e, Array<T, 2>& m) const {
    const bool negative = e.y < T(1) && e.w > T(0), positive = e.y > T(0) && e.w > T(0);
    m[0] = negative && e.s > m[0] ? e.s : m[0];
    m[1] = positive && -e.s > m[1] ? -e.s : m[1];
  }

  template <class E>
  MLLOSS_HD Array<T, 2> sums(E e, Array<T, 2> m) const {
    const Array<T, 2> x = exponentials(e, m);
    return {{e.w * x[0], e.w * x[1]}};
  }

  // Nothing is subtracted: no inf - inf to look out for.
  template <class E>
  MLLOSS_HD Array<T, 2> first_sums(E e) const {
    if constexpr (E::kSoft) return sums(e, {{T(0), T(0)}});
    const bool positive = e.y > T(0);
    const T x = e.w * exponential(positive ? -e.s : e.s);
    return {{positive ? T(0) : x, positive ? x : T(0)}};
  }

  // NaN is not unsafe: no maximum would mend it.
  MLLOSS_HD bool unsafe(Array<T, 2> sums) const {
    return sums[0] > T(1.2676506e30) || sums[1] > T(1.2676506e30);  // 2^100
  }

  template <class A>
  static MLLOSS_HD void rescale(Array<A, 2>& sums, Array<A, 2> from, Array<A, 2> to) {
    for (int i = 0; i < 2; ++i) sums[i] *= exp_difference(from[i], to[i]);
  }

  template <class A>
  MLLOSS_HD Array<A, 4> finalize(Statistics<A, 2, 2> stats, A& value) const {
    Array<A, 4> c;
    value = A(0);
    for (int i = 0; i < 2; ++i) {
      const A m = stats.maxima[i], sum = stats.sums[i];
      // log1p keeps losses far below the rounding of 1.
      value += m + log1p_positive(sum + expm1_any(-m));
      c[2 * i] = m;
      c[2 * i + 1] = A(1) / (sum + exponential(-m));
    }
    return c;
  }

  static MLLOSS_HD Array<T, 4> scaled(Array<T, 4> c, T factor) { return {{c[0], c[1] * factor, c[2], c[3] * factor}}; }

  // (m, 1/S) and not the log: e^(s-m)/S errs by 6e-8 where e^(s - log S) errs by 3e-4 at s = 9000.
  template <class E>
  MLLOSS_HD T gradient(E e, Array<T, 4> c) const {
    const Array<T, 2> x = exponentials(e, {{c[0], c[2]}});
    if constexpr (E::kSoft) return e.w * (x[0] * c[1] - x[1] * c[3]);
    return e.w * (e.y > T(0) ? x[1] * -c[3] : x[0] * c[1]);
  }

  // No infinite maximum: no inf - inf to look out for.
  static MLLOSS_HD bool usual(Array<T, 4> c) { return c[0] < T(INFINITY) && c[2] < T(INFINITY); }

  template <class E>
  MLLOSS_HD T usual_gradient(E e, Array<T, 4> c) const {
    if constexpr (E::kSoft) return gradient(e, c);
    const bool positive = e.y > T(0);
    const T x = exponential(positive ? -e.s - c[2] : e.s - c[0]);
    return e.w * (x * (positive ? -c[3] : c[1]));
  }

 private:
  // (1-y) e^(s-m0) and y e^(-s-m1). A hard label belongs to one side: one exponential.
  template <class E>
  static MLLOSS_HD Array<T, 2> exponentials(E e, Array<T, 2> m) {
    if constexpr (E::kSoft) {
      const T negative = (T(1) - e.y) * exp_difference(e.s, m[0]);
      const T positive = e.y * exp_difference(-e.s, m[1]);
      // Selected, not multiplied: 0 * inf is NaN for a confident logit.
      return {{e.y < T(1) ? negative : zero_unless_nan(e.s), e.y > T(0) ? positive : T(0)}};
    } else {
      const bool positive = e.y > T(0);
      const T x = exp_difference(positive ? -e.s : e.s, positive ? m[1] : m[0]);
      return {{positive ? T(0) : x, positive ? x : T(0)}};
    }
  }

  static MLLOSS_HD T zero_unless_nan(T s) { return s == s ? T(0) : s; }
};

}  // namespace MLLOSS_ISA
}  // namespace mlloss
