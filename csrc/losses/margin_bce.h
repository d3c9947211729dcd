// Margin-truncated binary cross-entropy: theta(margin - p_t) CE   (Su 2017, kexue.fm/archives/4733)
//
// The logit z = (2y-1)s is compared with logit(margin), because p rounds to the margin long before z does.
#pragma once

#include "functor.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

template <class T>
class MarginBce : public ElementWise {
 public:
  static constexpr LogisticNeed kLogistic = LogisticNeed::kLogarithm;

  // parameters: logit(margin).
  explicit MLLOSS_HD MarginBce(const double* parameters) : most_(static_cast<T>(parameters[0])) {}

  template <class E>
  MLLOSS_HD ValueAndGradient<T> evaluate(E e) const {
    if constexpr (E::kSoft) {
      const ValueAndGradient<T> positive = undecided(e, false), negative = undecided(e, true);
      return expectation(e.y, positive, {negative.value, -negative.gradient});
    } else {
      const bool positive = e.y > T(0);
      const ValueAndGradient<T> r = undecided(e, !positive);
      return {r.value, positive ? r.gradient : -r.gradient};
    }
  }

 private:
  T most_;

  // Returns the value and its gradient in z. A NaN is not decided and propagates through the products.
  template <class E>
  MLLOSS_HD ValueAndGradient<T> undecided(E e, bool negated) const {
    const T z = negated ? -e.s : e.s;
    const Logistic<T> l = logistic_of(e, negated);
    const T step = z < most_ ? T(1) : z == most_ ? T(0.5) : T(0);
    const bool decided = z > most_;
    return {decided ? T(0) : step * l.softplus_negated, decided ? T(0) : -step * l.sigmoid_negated};
  }
};

}  // namespace MLLOSS_ISA
}  // namespace mlloss
