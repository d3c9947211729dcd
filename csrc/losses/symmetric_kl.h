// Symmetric Kullback-Leibler divergence of two Bernoulli distributions, from their logits s and t:
// (sigmoid(s) - sigmoid(t)) (s - t)   (R-Drop, Liang et al. 2021, arXiv:2106.14448)
#pragma once

#include "functor.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

template <class T>
class SymmetricKl : public ElementWise {
 public:
  static constexpr LogisticNeed kLogistic = LogisticNeed::kTwoPowers;
  static constexpr bool kSecondLogits = true;

  explicit MLLOSS_HD SymmetricKl(const double*) {}

  template <class E>
  MLLOSS_HD ValueAndGradient<T> evaluate(E e) const {
    const ValueAndGradients<T> both = evaluate_both(e);
    return {both.value, both.gradient};
  }

  // The gradient in t is that in s with s and t exchanged.
  template <class E>
  MLLOSS_HD ValueAndGradients<T> evaluate_both(E e) const {
    const T difference = e.s == e.y ? T(0) : e.s - e.y;  // avoids inf - inf
    const T apart = absolute(difference);
    const TwoPowers<T> power = two_powers_of(e);
    const T rest = flushed(reciprocal((T(1) + power.high) * (T(1) + power.low)));
    // The sigmoids differ by rest (1 - e^-apart). Near 0, where that would cancel, a polynomial replaces it.
    const T gap = rest * (apart >= kNear<T> ? T(1) - power.high * power.low : one_minus_exp_near(apart));
    // sigmoid(high) and sigmoid(-low), of the larger and of the smaller logit
    const T high = (T(1) + power.low) * rest, low = (T(1) + power.high) * rest;
    const T high_slope = power.high * high * high, low_slope = power.low * low * low;
    const bool up = e.s > e.y;
    const T slope = up ? high_slope : low_slope, other_slope = up ? low_slope : high_slope;
    const T signed_gap = up ? gap : -gap;
    // A NaN shows in the gap.
    return {gap > T(0) ? gap * apart : gap, sum(slope, difference, signed_gap),
            -sum(other_slope, difference, signed_gap)};
  }

 private:
  // Returns slope * difference + gap. At an infinite logit the slope vanishes faster than the difference grows.
  static MLLOSS_HD T sum(T slope, T difference, T gap) {
    return slope > T(0) ? multiply_add(slope, difference, gap) : gap;
  }
};

}  // namespace MLLOSS_ISA
}  // namespace mlloss
