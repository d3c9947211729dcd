// Decoupled softmax: mean_P softplus(LSE_N - s_i)   (DEXML, Gupta et al. 2024, arXiv:2310.10636)
//
// Each positive competes with the negatives alone. For probabilities the loss is
//   sum w y softplus(log sum (1-y) e^s - s) / max(1, sum y).
#pragma once

#include "functor.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

template <class T>
class DecoupledSoftmax : public GroupWise<DecoupledSoftmax<T>> {
 public:
  static constexpr bool kSoftmaxOverLabels = true, kKeeps = true;  // kept: e^s
  static constexpr int kMaxima = 1, kSums = 3;                     // m and S of the negatives; sum y in two parts
  static constexpr int kSecondPassSums = 2;  // over the positives: softplus(z) and sigmoid(z), z = LSE_N - s
  static constexpr int kCoefficients = 4;    // m, the negatives' factor, log S, the positives' factor

  explicit MLLOSS_HD DecoupledSoftmax(const double*) {}

  static MLLOSS_HD T initial_maximum() { return T(-INFINITY); }

  template <class E>
  MLLOSS_HD void maxima(E e, Array<T, 1>& m) const {
    m[0] = e.y < T(1) && e.s > m[0] ? e.s : m[0];
  }

  template <class E>
  MLLOSS_HD Array<T, 3> sums(E e, Array<T, 1> m) const {
    // A logit of -inf contributes 0 even if the maximum is -inf, where exp_difference alone gives 1.
    const T x = e.s == T(-INFINITY) ? T(0) : exp_difference(e.s, m[0]);
    return with_target(e, x);
  }

  template <class E>
  MLLOSS_HD Array<T, 3> first_sums(E e) const {
    return with_target(e, exponential(e.s));
  }

  template <class E>
  MLLOSS_HD Array<T, 3> first_sums(E e, T& kept) const {
    kept = exponential(e.s);
    return with_target(e, kept);
  }

  MLLOSS_HD bool needs_max_shift(Array<T, 3> sums) const {
    return sums[0] > T(1.2676506e30) || sums[0] < T(7.8886091e-31);  // 2^100, 2^-100
  }

  template <class A>
  static MLLOSS_HD void rescale(Array<A, 3>& sums, Array<A, 1> from, Array<A, 1> to) {
    sums[0] *= exp_difference(from[0], to[0]);
  }

  // Returns m and log S; log S is -inf without negatives.
  template <class A>
  static MLLOSS_HD Array<A, 2> second_pass_input(Statistics<A, 1, 3> stats) {
    return {{stats.maxima[0], stats.sums[0] == A(0) ? A(-INFINITY) : log_positive(stats.sums[0])}};
  }

  template <class E>
  MLLOSS_HD Array<T, 2> second_pass_sums(E e, Array<T, 2> input) const {
    if constexpr (E::kNegative) return {{T(0), T(0)}};
    const Logistic<T> l = logistic(input[1] - above(e.s, input[0]));
    const T share = e.w * e.y, nothing = e.s == e.s ? T(0) : e.s;
    const bool counts = share > T(0);
    return {{counts ? share * l.softplus : nothing, counts ? share * l.sigmoid : nothing}};
  }

  template <class A>
  MLLOSS_HD Array<A, 4> finalize(Statistics<A, 1, 3> stats, Array<A, 2> second_sums, A& value) const {
    const A m = stats.maxima[0], sum = stats.sums[0], targets = stats.sums[1] + stats.sums[2];
    if (sum == A(0) || targets == A(0)) {
      value = A(0) * (sum + second_sums[0]);  // NaN if a sum is NaN
      return {{m > A(-INFINITY) ? m : A(0), value, A(0), value}};
    }
    const A share = A(1) / maximum(targets, A(1));
    value = second_sums[0] * share;
    return {{m, second_sums[1] * share / sum, log_positive(sum), value == value ? share : value}};
  }

  static MLLOSS_HD Array<T, 4> scaled(Array<T, 4> c, T factor) { return {{c[0], c[1] * factor, c[2], c[3] * factor}}; }

  template <class E>
  MLLOSS_HD T gradient(E e, Array<T, 4> c) const {
    const T distance = above(e.s, c[0]);
    if constexpr (E::kSoft) {
      const T negative = of_negative(e, exponential(distance)) * c[1];
      return negative - (e.y > T(0) ? e.w * e.y * sigmoid(c[2] - distance) * c[3] : T(0));
    } else {
      return hard_gradient(e, distance, c);
    }
  }

  static MLLOSS_HD bool zero_maxima(Array<T, 4> c) { return c[0] == T(0); }

  template <class E>
  MLLOSS_HD T gradient_at_zero_maxima(E e, Array<T, 4> c) const {
    return kept_gradient(e, exponential(e.s), c);
  }

  // For a positive, e^(s - log S) is e^s times a number that the whole row shares.
  template <class E>
  MLLOSS_HD T kept_gradient(E e, T kept, Array<T, 4> c) const {
    const T negative = of_negative(e, kept) * c[1];
    if constexpr (E::kNegative) return negative;
    const T positive = e.w * e.y * c[3] * reciprocal(T(1) + kept * exponential(-c[2]));
    return negative - (e.y > T(0) ? positive : T(0));
  }

 private:
  // Returns s - m, and 0 for equal arguments, infinite ones included.
  static MLLOSS_HD T above(T s, T m) { return s == m ? T(0) : s - m; }

  // Returns the shares of one label in the sums; x is its exponential.
  template <class E>
  static MLLOSS_HD Array<T, 3> with_target(E e, T x) {
    if constexpr (!E::kSoft) return {{of_negative(e, x), e.y, T(0)}};
    const TwoParts<T> y = two_parts(e.y);
    return {{of_negative(e, x), y.upper, y.lower}};
  }

  // Terms are selected and not multiplied, because 0 * inf is NaN for a confident logit.
  template <class E>
  static MLLOSS_HD T of_negative(E e, T x) {
    if constexpr (E::kNegative) return x;
    if constexpr (E::kSoft) return e.y < T(1) ? (T(1) - e.y) * x : T(0);
    return e.y > T(0) ? T(0) : x;
  }

  // A hard label belongs to one side and needs one exponential.
  template <class E>
  static MLLOSS_HD T hard_gradient(E e, T distance, Array<T, 4> c) {
    if constexpr (E::kNegative) return exponential(distance) * c[1];
    const bool positive = e.y > T(0);
    const T x = exponential(positive ? distance - c[2] : distance);
    return positive ? -e.w * c[3] * reciprocal(T(1) + x) : x * c[1];
  }
};

}  // namespace MLLOSS_ISA
}  // namespace mlloss
