// Binary cross-entropy: w [q y log(1 + e^-s) + (1 - y) log(1 + e^s)], with q for each label
#pragma once

#include "functor.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

template <class T>
class Bce : public ElementWise {
 public:
  static constexpr LogisticNeed kLogistic = LogisticNeed::kLogarithm;
  static constexpr bool kLabelParameter = true;  // q

  // parameters: a factor of every q.
  explicit MLLOSS_HD Bce(const double* parameters) : positive_(static_cast<T>(parameters[0])) {}

  template <class E>
  MLLOSS_HD ValueAndGradient<T> evaluate(E e) const {
    const T q = positive_ * e.parameter;
    if constexpr (E::kSoft) {
      const Logistic<T> l = logistic_of(e, false);
      return expectation(e.y, {q * capped(l.softplus_negated, cap_of(q)), -q * l.sigmoid_negated},
                         {l.softplus, l.sigmoid});
    } else {
      const bool positive = e.y > T(0);
      const Logistic<T> l = logistic_of(e, positive);
      if constexpr (E::kNegative) return {l.softplus, l.sigmoid};
      const T factor = positive ? q : T(1);
      return {factor * capped(l.softplus, cap_of(factor)), positive ? -q * l.sigmoid : l.sigmoid};
    }
  }

 private:
  T positive_;
};

}  // namespace MLLOSS_ISA
}  // namespace mlloss
