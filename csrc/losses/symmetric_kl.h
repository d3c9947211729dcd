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
    const Array<T, 2> power = two_powers_of(e);
    const T p = reciprocal(T(1) + power[0]), q = reciprocal(T(1) + power[1]);  // the sigmoids
    // The sigmoids differ by p q |e^-t - e^-s|. Near 0, where that would cancel, a polynomial replaces the difference.
    const T near = larger(power[0], power[1]) * one_minus_exp_near(apart);
    const T powers_apart = apart >= kNear<T> ? absolute(power[1] - power[0]) : near;
    // This order keeps the products finite, and makes the value symmetric to the bit. A NaN shows in the gap.
    const T gap = powers_apart * smaller(p, q) * larger(p, q), signed_gap = copysign(gap, difference);
    const T gradient = sum(power[0] * p * p, difference, signed_gap);
    const T other = sum(power[1] * q * q, difference, signed_gap);
    return {gap > T(0) ? gap * apart : gap, gradient, -other};
  }

 private:
  // Returns slope * difference + gap. At an infinite logit the slope vanishes faster than the difference grows.
  static MLLOSS_HD T sum(T slope, T difference, T gap) {
    return slope > kVanishing<T> ? multiply_add(slope, difference, gap) : gap;
  }
};

}  // namespace MLLOSS_ISA
}  // namespace mlloss
