// Soft Dice, linear (Sudre et al. 2017, arXiv:1707.03237) or with squares (Milletari et al. 2016, arXiv:1606.04797),
// and Tversky (Salehi et al. 2017, arXiv:1706.05721) and Jaccard by other coefficients.
#pragma once

#include "overlap.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

template <class T>
class Dice : public Overlap<T> {
 public:
  static constexpr LogisticNeed kLogistic = LogisticNeed::kSigmoid;

  using Overlap<T>::Overlap;

  template <class E>
  MLLOSS_HD Array<T, 3> sums(E e, Array<T, 0>) const {
    return this->sums_of(e, sigmoid_of(e));
  }

  template <class E>
  MLLOSS_HD Array<T, 3> first_sums(E e) const {
    return sums(e, {});
  }

  template <class E>
  MLLOSS_HD T gradient(E e, Array<T, 2> c) const {
    const SigmoidAndSlope<T> l = sigmoid_and_slope_of(e);
    return e.w * l.slope * this->slope_of(e, l.sigmoid, c);
  }

  template <class E>
  MLLOSS_HD T unshifted_gradient(E e, Array<T, 2> c) const {
    return gradient(e, c);
  }

  template <class E>
  MLLOSS_HD T usual_gradient(E e, Array<T, 2> c) const {
    return gradient(e, c);
  }
};

}  // namespace MLLOSS_ISA
}  // namespace mlloss
