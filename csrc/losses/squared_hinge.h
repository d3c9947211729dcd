// Squared hinge: max(0, 1 - z)^2, z = (2y-1)s
#pragma once

#include "functor.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

template <class T>
class SquaredHinge : public ElementWise {
 public:
  explicit MLLOSS_HD SquaredHinge(const double*) {}

  template <class E>
  MLLOSS_HD ValueAndGradient<T> evaluate(E e) const {
    const T up = lack(e.s), down = lack(-e.s);
    if constexpr (E::kSoft) {
      return expectation(e.y, {up * up, T(-2) * up}, {down * down, T(2) * down});
    } else {
      const bool positive = e.y > T(0);
      const T lacking = positive ? up : down;
      return {lacking * lacking, T(2) * (positive ? -lacking : lacking)};
    }
  }

 private:
  // Returns how much z lacks to a margin of 1; NaN for NaN.
  static MLLOSS_HD T lack(T z) { return z > T(1) ? T(0) : T(1) - z; }
};

}  // namespace MLLOSS_ISA
}  // namespace mlloss
