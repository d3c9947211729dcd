// Asymmetric loss, ASL: positives (1 - p)^g+ (-log p), negatives u^g- (-log(1 - u)), u = max(p - m, 0)
// (Ridnik et al. 2021, arXiv:2009.14119)
//
// Powers are exponentials of what softplus gives exactly, and 1 - u = sigmoid(-s) + m: no eps, and no power
// of 0. Whether u is above 0 is decided on the logit.
#pragma once

#include "functor.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

template <class T>
class Asymmetric : public ElementWise {
 public:
  static constexpr LogisticNeed kLogistic = LogisticNeed::kLogarithm;
  static constexpr int kDemanding = 1;

  // parameters: g-, g+, m; 1 for powers that are constants to the gradient; logit(m).
  explicit MLLOSS_HD Asymmetric(const double* parameters)
      : gamma_negative_(static_cast<T>(parameters[0])),
        gamma_positive_(static_cast<T>(parameters[1])),
        clip_(static_cast<T>(parameters[2])),
        attached_(parameters[3] == 0.0 ? T(1) : T(0)),
        least_(static_cast<T>(parameters[4])) {}

  template <class E>
  MLLOSS_HD ValueAndGradient<T> evaluate(E e) const {
    const Logistic<T> l = logistic_of(e, false);
    if constexpr (E::kSoft) {
      return expectation(e.y, of_positive(l), of_negative(e.s, l));
    } else if constexpr (E::kNegative) {
      return of_negative(e.s, l);
    } else {
      const ValueAndGradient<T> positive = of_positive(l), negative = of_negative(e.s, l);
      const bool up = e.y > T(0);
      return {up ? positive.value : negative.value, up ? positive.gradient : negative.gradient};
    }
  }

 private:
  T gamma_negative_, gamma_positive_, clip_;
  T attached_;  // 1 or 0: a product where a branch would not vectorise
  T least_;

  // Of a product's limit at an infinite logit the other factor decides.
  static MLLOSS_HD T finite(T x) { return at_most(x, T(1e30)); }

  MLLOSS_HD ValueAndGradient<T> of_positive(Logistic<T> l) const {
    const T modulation = exponential(-gamma_positive_ * finite(l.softplus));
    const T focus = attached_ * gamma_positive_ * l.sigmoid * finite(l.softplus_negated);
    return {modulation * l.softplus_negated, -modulation * (focus + l.sigmoid_negated)};
  }

  MLLOSS_HD ValueAndGradient<T> of_negative(T s, Logistic<T> l) const {
    const T p = l.sigmoid, q = l.sigmoid_negated, rest = q + clip_;
    const bool clipped = clip_ > T(0);
    const T u = p > clip_ ? p - clip_ : T(0);
    const T ratio = minus_log_over(u, rest);  // -log(1 - u) / u
    const T cost = clipped ? u * ratio : l.softplus;
    // Without a clip u is p, whose logarithm is exact where p itself is 0.
    const T minus_log = clipped ? -logarithm(u) : l.softplus_negated;
    const T modulation = exponential(-gamma_negative_ * finite(minus_log));
    const T share = clipped ? p * q * reciprocal(rest) : p;
    const T focus = clipped ? p * q * ratio : q * finite(l.softplus);
    const T slope = share + attached_ * gamma_negative_ * focus;
    // NaN is not below any threshold.
    const T nothing = s == s ? T(0) : s;
    return s > least_ ? ValueAndGradient<T>{modulation * cost, modulation * slope}
                      : ValueAndGradient<T>{nothing, nothing};
  }
};

}  // namespace MLLOSS_ISA
}  // namespace mlloss
