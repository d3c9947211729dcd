// Soft Dice, linear (Sudre et al. 2017, arXiv:1707.03237) or with squares (Milletari et al. 2016, arXiv:1606.04797).
// Other coefficients give Tversky (Salehi et al. 2017, arXiv:1706.05721) and Jaccard.
#pragma once

#include "overlap.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

template <class T>
class Dice : public Overlap<T, Dice<T>> {
 public:
  static constexpr LogisticNeed kLogistic = LogisticNeed::kSigmoid;
  static constexpr bool kKeeps = true;  // kept: p, or p - 1 if 1 - p is smaller; p and 1 - p both follow exactly

  static constexpr bool kSlopes = true;

  using Overlap<T, Dice<T>>::Overlap;
  using Overlap<T, Dice<T>>::first_sums;

  template <class E>
  MLLOSS_HD Array<T, 3> sums(E e, Array<T, 0>) const {
    return this->sums_of(e, sigmoid_of(e));
  }

  template <class E>
  MLLOSS_HD Array<T, 3> first_sums(E e, T& kept) const {
    const T power = capped_power_of(e), q = reciprocal(T(1) + power), p = power * q;
    kept = e.s >= T(0) ? least_ - q : p;
    return this->sums_of(e, p);
  }

  template <class E>
  MLLOSS_HD T kept_gradient(E e, T kept, Array<T, 2> c) const {
    const T tail = absolute(kept), p = kept < T(0) ? T(1) + kept : kept;
    return e.w * (tail - tail * tail) * this->slope_of(e, p, c);
  }

  // The gradient of squared Dice needs p too, so slopes alone serve linear Dice only.
  MLLOSS_HD bool slopes_serve() const { return this->squared_ == T(0); }

  template <class E>
  MLLOSS_HD Array<T, 3> sums_and_slope(E e, T& slope) const {
    const SigmoidAndSlope<T> l = sigmoid_and_slope_of(e);
    slope = l.slope;
    if constexpr (E::kNegative) return {{T(0), e.w * l.sigmoid, T(0)}};
    return {{e.w * (l.sigmoid * e.y), e.w * l.sigmoid, e.w * e.y}};
  }

  template <class E>
  MLLOSS_HD T slope_gradient(E e, T slope, Array<T, 2> c) const {
    if constexpr (E::kNegative) return e.w * (slope * c[1]);
    return e.w * (slope * (e.y * c[0] + c[1]));
  }

  template <class E>
  MLLOSS_HD T gradient(E e, Array<T, 2> c) const {
    const SigmoidAndSlope<T> l = sigmoid_and_slope_of(e);
    return e.w * l.slope * this->slope_of(e, l.sigmoid, c);
  }

 private:
  // The value of 1 - p at the cap of e^s. Its subtraction makes 1 - p exactly 0 there.
  T least_ = reciprocal(T(1) + logistic_power(T(INFINITY)));
};

}  // namespace MLLOSS_ISA
}  // namespace mlloss
