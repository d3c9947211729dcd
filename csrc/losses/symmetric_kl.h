// Symmetric Kullback-Leibler divergence of two Bernoulli distributions, from their logits s and t:
// (sigmoid(s) - sigmoid(t)) (s - t)   (R-Drop, Liang et al. 2021, arXiv:2106.14448)
#pragma once

#include "functor.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

template <class T>
class SymmetricKl : public ElementWise {
 public:
  static constexpr LogisticNeed kLogistic = LogisticNeed::kTwoTails;
  static constexpr bool kSecondLogits = true;

  explicit MLLOSS_HD SymmetricKl(const double*) {}

  // Returns the gradient in s; the gradient in t is the same function with s and t exchanged.
  template <class E>
  MLLOSS_HD ValueAndGradient<T> evaluate(E e) const {
    const T apart = e.s == e.y ? T(0) : absolute(e.s - e.y);  // avoids inf - inf
    const TwoTails<T> at = two_tails_of(e);
    const LogisticTails<T> s = at.first, t = at.second;
    const bool up = e.s > e.y;
    // The difference of the sigmoids is upper (1 - e^-apart) = upper - lower; the first form is used where the second
    // one would cancel.
    const T st = s.sigmoid * t.sigmoid_negated, ts = t.sigmoid * s.sigmoid_negated;
    const T upper = up ? st : ts, lower = up ? ts : st;
    const T gap = apart < kNear<T> ? upper * one_minus_exp_near(apart) : upper - lower;
    const T slope = s.sigmoid * s.sigmoid_negated;
    // At infinity the vanishing factor falls faster than s - t grows. A NaN shows in the gap.
    const T value = gap == T(0) ? T(0) : gap * apart;
    const T gradient = (slope > T(0) ? slope * apart : T(0)) + gap;
    return {value, up ? gradient : -gradient};
  }
};

}  // namespace MLLOSS_ISA
}  // namespace mlloss
