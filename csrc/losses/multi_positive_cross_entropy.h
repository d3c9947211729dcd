// Multi-positive softmax cross-entropy: sum y (LSE(s) - s)
//
// With k = sum y and T = sum y (m - s), which moves with the maximum, the loss is T + k log S, and nothing cancels. k
// is summed in two parts, because label smoothing gives many tiny targets beside a few that are nearly 1.
#pragma once

#include "functor.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

template <class T>
class MultiPositiveCrossEntropy : public GroupWise<MultiPositiveCrossEntropy<T>> {
 public:
  static constexpr bool kSoftmaxOverLabels = true, kKeeps = true;  // kept: e^s
  static constexpr int kMaxima = 1, kCoefficients = 3;             // m, k / S, 1
  static constexpr int kSums = 4;                                  // S, k's upper part, T, k's lower part

  explicit MLLOSS_HD MultiPositiveCrossEntropy(const double*) {}

  static MLLOSS_HD T initial_maximum() { return T(-INFINITY); }

  template <class E>
  MLLOSS_HD void maxima(E e, Array<T, 1>& m) const {
    m[0] = e.s > m[0] ? e.s : m[0];
  }

  template <class E>
  MLLOSS_HD Array<T, 4> sums(E e, Array<T, 1> m) const {
    const TwoParts<T> k = share_of(e);
    // A label that is no target may be infinitely far from the maximum.
    const bool target = k.whole > T(0) && e.s != m[0];
    // An excluded label takes no part in the softmax, even if all others are at -inf too.
    const bool out = e.s == T(-INFINITY) && e.w == T(0);
    return {{out ? T(0) : exp_difference(e.s, m[0]), k.upper, target ? k.whole * (m[0] - e.s) : T(0), k.lower}};
  }

  template <class E>
  MLLOSS_HD Array<T, 4> first_sums(E e) const {
    T kept;
    return first_sums(e, kept);
  }

  template <class E>
  MLLOSS_HD Array<T, 4> first_sums(E e, T& kept) const {
    kept = exponential(e.s);
    if constexpr (E::kNegative) return {{kept, T(0), T(0), T(0)}};
    const TwoParts<T> k = share_of(e);
    return {{kept, k.upper, k.whole > T(0) ? -k.whole * e.s : T(0), k.lower}};
  }

  // If one target has nearly all of the sum, only the maximum makes its probability exact: e^s / S misses 1 by a
  // rounding.
  MLLOSS_HD bool needs_max_shift(Array<T, 4> sums) const {
    const T k = sums[1] + sums[3];
    const bool decided = k > T(0) && sums[0] < T(1.00002) * exponential(-sums[2] / k);
    return decided || sums[0] > T(1.2676506e30) || sums[0] < T(7.8886091e-31);  // 2^100, 2^-100
  }

  template <class A>
  static MLLOSS_HD void rescale(Array<A, 4>& sums, Array<A, 1> from, Array<A, 1> to) {
    sums[0] *= exp_difference(from[0], to[0]);
    const A k = sums[1] + sums[3];
    const bool moves = k != A(0) && from[0] != to[0];
    sums[2] += moves ? k * (to[0] - from[0]) : A(0);
  }

  template <class A>
  MLLOSS_HD Array<A, 3> finalize(Statistics<A, 1, 4> stats, A& value) const {
    const A m = stats.maxima[0], sum = stats.sums[0], k = stats.sums[1] + stats.sums[3];
    if (k == A(0)) {
      value = A(0) * sum;  // NaN if the sum is NaN
      return {{m, value, A(1)}};
    }
    value = stats.sums[2] + k * log_positive(sum);
    return {{m, k / sum, A(1)}};
  }

  static MLLOSS_HD Array<T, 3> scaled(Array<T, 3> c, T factor) { return {{c[0], c[1] * factor, c[2] * factor}}; }

  template <class E>
  MLLOSS_HD T gradient(E e, Array<T, 3> c) const {
    return exp_difference(e.s, c[0]) * c[1] - e.w * e.y * c[2];
  }

  static MLLOSS_HD bool zero_maxima(Array<T, 3> c) { return c[0] == T(0); }

  template <class E>
  MLLOSS_HD T gradient_at_zero_maxima(E e, Array<T, 3> c) const {
    return kept_gradient(e, exponential(e.s), c);
  }

  template <class E>
  MLLOSS_HD T kept_gradient(E e, T kept, Array<T, 3> c) const {
    const T share = kept * c[1];
    if constexpr (E::kNegative) return share;
    return share - e.w * e.y * c[2];
  }

 private:
  template <class E>
  static MLLOSS_HD TwoParts<T> share_of(E e) {
    if constexpr (E::kSoft) return two_parts(e.w * e.y);
    return {e.w * e.y, e.w * e.y, T(0)};
  }
};

}  // namespace MLLOSS_ISA
}  // namespace mlloss
