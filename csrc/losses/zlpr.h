// ZLPR: log(1 + sum_P e^-s) + log(1 + sum_N e^s)   (Su et al. 2022, arXiv:2208.02955)
//
// Probabilities y weigh both sides: log(1 + sum y e^-s) + log(1 + sum (1-y) e^s).
#pragma once

#include "two_sides.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

template <class T>
class Zlpr : public TwoSides<T, Zlpr<T>> {
 public:
  static constexpr int kSums = 2;

  explicit MLLOSS_HD Zlpr(const double*) {}

  // The 1 in each logarithm is e^0, so a maximum is never below 0.
  static MLLOSS_HD T initial_maximum() { return T(0); }

  template <class E>
  MLLOSS_HD Array<T, 2> sums(E e, Array<T, 2> m) const {
    const Array<T, 2> x = this->exponentials(e, m);
    return {{e.w * x[0], e.w * x[1]}};
  }

  template <class E>
  MLLOSS_HD Array<T, 2> first_sums(E e) const {
    return this->first_exponentials(e);
  }

  template <class E>
  MLLOSS_HD Array<T, 2> first_sums(E e, T& kept) const {
    kept = this->own_power(e);
    return this->first_exponentials(e, kept);
  }

  // A sum of NaN needs no shift, because no maximum would repair it.
  MLLOSS_HD bool needs_max_shift(Array<T, 2> sums) const {
    return sums[0] > this->kLargest || sums[1] > this->kLargest;
  }

  template <class A>
  static MLLOSS_HD void rescale(Array<A, 2>& sums, Array<A, 2> from, Array<A, 2> to) {
    for (int i = 0; i < 2; ++i) sums[i] *= exp_difference(from[i], to[i]);
  }

  template <class A>
  MLLOSS_HD Array<A, 4> finalize(Statistics<A, 2, 2> stats, A& value) const {
    Array<A, 4> c;
    value = A(0);
    for (int i = 0; i < 2; ++i) {
      const A m = stats.maxima[i], sum = stats.sums[i];
      // log(1 + e^m sum) with a part of m before the logarithm, because e^m may overflow. log1p keeps losses far below
      // the rounding of 1, and sums that tiny weights make far smaller than e^-m.
      const A inside = at_most(m, A(kInside)), before = m - inside, power = exponential(inside);
      const A terms = sum * power + (exponential(-before) - A(1));
      // A side without labels, or whose weights are too small for a sum, has neither a loss nor a gradient.
      const bool none = sum == A(0);
      value += none ? A(0) : before + log1p_positive(terms);
      c[2 * i] = m;
      c[2 * i + 1] = none ? A(0) : power / (A(1) + terms);
    }
    // A NaN on one side makes the row NaN, including the gradient of the other side.
    if (value != value) c[1] = c[3] = value;
    return c;
  }

 private:
  static constexpr float kInside = 64.0f;  // e^64 times a sum of any number of labels is a float
};

}  // namespace MLLOSS_ISA
}  // namespace mlloss
