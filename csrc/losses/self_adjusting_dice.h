// Self-adjusting Dice: (1 - p)^f p replaces p, which reduces the influence of easy positives (Li et al. 2020,
// arXiv:1911.02855)
#pragma once

#include "overlap.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

template <class T>
class SelfAdjustingDice : public Overlap<T, SelfAdjustingDice<T>> {
 public:
  static constexpr LogisticNeed kLogistic = LogisticNeed::kLogarithm;

  // parameters: those of Overlap, then f > 0.
  explicit MLLOSS_HD SelfAdjustingDice(const double* parameters)
      : Overlap<T, SelfAdjustingDice<T>>(parameters), focus_(static_cast<T>(parameters[6])) {}

  template <class E>
  MLLOSS_HD Array<T, 3> sums(E e, Array<T, 0>) const {
    return this->sums_of(e, adjusted(logistic_of(e, false)));
  }

  template <class E>
  MLLOSS_HD T gradient(E e, Array<T, 2> c) const {
    const Logistic<T> l = logistic_of(e, false);
    const T p = adjusted(l);
    return e.w * (p * (l.sigmoid_negated - focus_ * l.sigmoid)) * this->slope_of(e, p, c);
  }

 private:
  T focus_;

  MLLOSS_HD T adjusted(Logistic<T> l) const { return l.sigmoid * exponential(-focus_ * l.softplus); }
};

}  // namespace MLLOSS_ISA
}  // namespace mlloss
