// Soft Dice over a group (a row, a label, or everything): 1 - (2 sum p y + c) / (sum p^q + sum y^q + c)
//
// q = 1, linear (Sudre et al. 2017, arXiv:1707.03237); q = 2, squared (Milletari et al. 2016,
// arXiv:1606.04797).
#pragma once

#include "functor.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

template <class T>
class Dice : public GroupWise {
 public:
  static constexpr bool kAcrossRows = true;
  static constexpr int kMaxima = 0, kSums = 3, kCoefficients = 2;  // sums: p y, p^q, y^q

  // parameters: smooth; 1 for squared denominators.
  explicit MLLOSS_HD Dice(const double* parameters)
      : smooth_(static_cast<T>(parameters[0])),
        linear_(parameters[1] == 0.0 ? T(1) : T(0)),
        squared_(parameters[1] == 0.0 ? T(0) : T(1)) {}

  static MLLOSS_HD T initial_maximum() { return T(0); }

  template <class E>
  MLLOSS_HD void maxima(E, Array<T, 0>&) const {}

  template <class E>
  MLLOSS_HD Array<T, 3> sums(E e, Array<T, 0>) const {
    const T p = sigmoid(e.s);
    if constexpr (E::kNegative) return {{T(0), e.w * power(p), T(0)}};
    return {{e.w * (p * e.y), e.w * power(p), e.w * power(e.y)}};
  }

  template <class E>
  MLLOSS_HD Array<T, 3> first_sums(E e) const {
    return sums(e, {});
  }

  MLLOSS_HD bool unsafe(Array<T, 3>) const { return false; }

  template <class A>
  static MLLOSS_HD void rescale(Array<A, 3>&, Array<A, 0>, Array<A, 0>) {}

  template <class A>
  MLLOSS_HD Array<A, 2> finalize(Statistics<A, 0, 3> stats, A& value) const {
    const A smooth = static_cast<A>(smooth_), q = A(1) + static_cast<A>(squared_);
    const A numerator = A(2) * stats.sums[0] + smooth;
    const A denominator = stats.sums[1] + stats.sums[2] + smooth;
    // An empty group without smoothing: nothing to find, nothing found.
    if (denominator == A(0)) {
      value = A(0);
      return {{A(0), A(0)}};
    }
    value = (denominator - numerator) / denominator;
    return {{A(-2) / denominator, q * (numerator / denominator) / denominator}};
  }

  static MLLOSS_HD Array<T, 2> scaled(Array<T, 2> c, T factor) { return {{c[0] * factor, c[1] * factor}}; }

  template <class E>
  MLLOSS_HD T gradient(E e, Array<T, 2> c) const {
    const SigmoidAndSlope<T> l = sigmoid_and_slope(e.s);
    const T slope = (linear_ + squared_ * l.sigmoid) * c[1];
    if constexpr (E::kNegative) return e.w * l.slope * slope;
    return e.w * l.slope * (e.y * c[0] + slope);
  }

  static MLLOSS_HD bool usual(Array<T, 2>) { return true; }

  template <class E>
  MLLOSS_HD T usual_gradient(E e, Array<T, 2> c) const {
    return gradient(e, c);
  }

 private:
  T smooth_;
  T linear_, squared_;  // 1 and 0, or 0 and 1: a product where a branch would not vectorise

  // x^q, exactly
  MLLOSS_HD T power(T x) const { return x * (linear_ + squared_ * x); }
};

}  // namespace MLLOSS_ISA
}  // namespace mlloss
