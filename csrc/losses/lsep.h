// LSEP: log(1 + sum_P sum_N e^(s_j - s_i)) = softplus(LSE_N(s) + LSE_P(-s))   (Li et al. 2017, arXiv:1704.03135)
//
// Two sums cover all pairs. A row without pairs has a loss of 0.
#pragma once

#include "two_sides.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

template <class T>
class Lsep : public TwoSides<T, Lsep<T>> {
 public:
  static constexpr int kSums = 3;  // the third sum counts the positives

  explicit MLLOSS_HD Lsep(const double*) {}

  // Neither sum has a constant 1 beside it, so its maximum may lie anywhere.
  static MLLOSS_HD T initial_maximum() { return T(-INFINITY); }

  template <class E>
  MLLOSS_HD Array<T, 3> sums(E e, Array<T, 2> m) const {
    const Array<T, 2> x = this->exponentials(e, m);
    // Terms are selected and not multiplied, because an excluded label may lie far above a maximum.
    const bool counts = e.w > T(0);
    return {{counts ? e.w * x[0] : T(0), counts ? e.w * x[1] : T(0), one_if(counts && e.y > T(0))}};
  }

  template <class E>
  MLLOSS_HD Array<T, 3> first_sums(E e) const {
    return with_count(e, this->first_exponentials(e));
  }

  template <class E>
  MLLOSS_HD Array<T, 3> first_sums(E e, T& kept) const {
    kept = this->own_power(e);
    return with_count(e, this->first_exponentials(e, kept));
  }

  // A sum that is too small needs its maximum too. Most tiles have no positives, whose sum is then 0.
  MLLOSS_HD bool needs_max_shift(Array<T, 3> sums) const {
    return sums[0] > this->kLargest || sums[1] > this->kLargest || sums[0] < this->kSmallest ||
           (sums[1] < this->kSmallest && sums[2] > T(0));
  }

  // A side without labels has the maximum -inf. With 0 it would hide the positives of another tile, whose -s may all
  // lie far below 0.
  template <class A>
  static MLLOSS_HD Array<A, 2> first_maxima(const Array<A, 3>& sums) {
    const A none = A(-INFINITY);
    return {{sums[0] == A(0) ? none : A(0), sums[1] == A(0) ? none : A(0)}};
  }

  template <class A>
  static MLLOSS_HD void rescale(Array<A, 3>& sums, Array<A, 2> from, Array<A, 2> to) {
    for (int i = 0; i < 2; ++i) sums[i] *= exp_difference(from[i], to[i]);
  }

  template <class A>
  MLLOSS_HD Array<A, 4> finalize(Statistics<A, 2, 3> stats, A& value) const {
    const A negatives = stats.sums[0], positives = stats.sums[1];
    if (negatives == A(0) || positives == A(0)) {
      value = A(0) * (negatives + positives);  // NaN if a sum is NaN
      return {{within(stats.maxima[0]), value, within(stats.maxima[1]), value}};
    }
    // Equal infinite logits on both sides have a difference of 0.
    const A apart = stats.maxima[0] == -stats.maxima[1] ? A(0) : stats.maxima[0] + stats.maxima[1];
    const A pairs = apart + (log_positive(negatives) + log_positive(positives));
    const A t = exponential(-absolute(pairs)), share = A(1) / (A(1) + t);
    const bool up = pairs >= A(0);
    value = (up ? pairs : A(0)) + log1p_positive(t);
    const A r = up ? share : t * share;
    return {{stats.maxima[0], r / negatives, stats.maxima[1], r / positives}};
  }

 private:
  template <class E>
  static MLLOSS_HD Array<T, 3> with_count(E e, Array<T, 2> x) {
    return {{x[0], x[1], one_if(e.w > T(0) && e.y > T(0))}};
  }

  static MLLOSS_HD T one_if(bool condition) { return condition ? T(1) : T(0); }

  // Returns a maximum, or 0 for a side without labels.
  template <class A>
  static MLLOSS_HD A within(A maximum) {
    return maximum > A(-INFINITY) ? maximum : A(0);
  }
};

}  // namespace MLLOSS_ISA
}  // namespace mlloss
