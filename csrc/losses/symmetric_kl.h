// Symmetric Kullback-Leibler divergence of two Bernoulli distributions, by their logits s and t:
// (sigmoid(s) - sigmoid(t)) (s - t)   (R-Drop, Liang et al. 2021, arXiv:2106.14448)
#pragma once

#include "functor.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

template <class T>
class SymmetricKl : public ElementWise {
 public:
  static constexpr bool kRawTargets = true;
  static constexpr int kDemanding = 1;

  explicit MLLOSS_HD SymmetricKl(const double*) {}

  // The gradient in s; that in t is this with the two exchanged.
  template <class E>
  MLLOSS_HD ValueAndGradient<T> evaluate(E e) const {
    const T apart = e.s == e.y ? T(0) : absolute(e.s - e.y);  // no inf - inf
    const Sides s = sides(e.s), t = sides(e.y);
    const bool up = e.s > e.y;
    // Of the sigmoids, from their upper and lower tails: where both are 1 but for these, nothing cancels.
    const T gap = (up ? s.low * t.high : t.low * s.high) * one_minus_exp(apart);
    const T slope = s.low * s.high;
    // At infinity what vanishes does so faster than s - t grows. A NaN is in the gap, too.
    const T value = gap == T(0) ? T(0) : gap * apart;
    const T gradient = (slope > T(0) ? slope * apart : T(0)) + gap;
    return {value, up ? gradient : -gradient};
  }

 private:
  // sigmoid(x) and sigmoid(-x)
  struct Sides {
    T low, high;
  };

  static MLLOSS_HD Sides sides(T x) {
    const T tail = exponential(-absolute(x));
    const T r = reciprocal(T(1) + tail), rest = tail * r;
    return {x >= T(0) ? r : rest, x >= T(0) ? rest : r};
  }
};

}  // namespace MLLOSS_ISA
}  // namespace mlloss
