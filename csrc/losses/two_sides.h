// The base of losses with a log-sum-exp of s over the negatives and one of -s over the positives. In each pair, [0]
// belongs to the negatives and [1] to the positives.
#pragma once

#include "functor.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

template <class T, class Loss>
class TwoSides : public GroupWise<Loss> {
 public:
  static constexpr int kMaxima = 2, kCoefficients = 4;  // m and the gradient's factor, for each side
  static constexpr bool kKeeps = true;                  // kept: e^s, or e^-s for a hard positive

  template <class E>
  MLLOSS_HD void maxima(E e, Array<T, 2>& m) const {
    const bool negative = e.y < T(1) && e.w > T(0), positive = e.y > T(0) && e.w > T(0);
    m[0] = negative && e.s > m[0] ? e.s : m[0];
    m[1] = positive && -e.s > m[1] ? -e.s : m[1];
  }

  static MLLOSS_HD Array<T, 4> scaled(Array<T, 4> c, T factor) { return {{c[0], c[1] * factor, c[2], c[3] * factor}}; }

  // The coefficients are (m, 1/S) and not log S: e^(s-m)/S errs by 6e-8 where e^(s - log S) errs by 3e-4 at s = 9000.
  template <class E>
  MLLOSS_HD T gradient(E e, Array<T, 4> c) const {
    const Array<T, 2> x = exponentials(e, {{c[0], c[2]}});
    if constexpr (E::kSoft) return e.w * (x[0] * c[1] - x[1] * c[3]);
    return e.w * (e.y > T(0) ? x[1] * -c[3] : x[0] * c[1]);
  }

  static MLLOSS_HD bool zero_maxima(Array<T, 4> c) { return c[0] == T(0) && c[2] == T(0); }

  template <class E>
  MLLOSS_HD T gradient_at_zero_maxima(E e, Array<T, 4> c) const {
    return kept_gradient(e, own_power(e), c);
  }

  template <class E>
  MLLOSS_HD T kept_gradient(E e, T kept, Array<T, 4> c) const {
    if constexpr (E::kSoft) {
      const Array<T, 2> x = sides_from(e, kept);
      return e.w * (x[0] * c[1] - x[1] * c[3]);
    }
    return e.w * (kept * (e.y > T(0) ? -c[3] : c[1]));
  }

 protected:
  static constexpr T kLargest = T(1.2676506e30), kSmallest = T(7.8886091e-31);  // 2^100, 2^-100

  // Returns (1-y) e^(s-m0) and y e^(-s-m1). A hard label belongs to one side and needs one exponential.
  template <class E>
  static MLLOSS_HD Array<T, 2> exponentials(E e, Array<T, 2> m) {
    if constexpr (E::kSoft) {
      const T negative = (T(1) - e.y) * exp_difference(e.s, m[0]);
      const T positive = e.y * exp_difference(-e.s, m[1]);
      // Terms are selected and not multiplied, because 0 * inf is NaN for a confident logit.
      return {{e.y < T(1) ? negative : zero_unless_nan(e.s), e.y > T(0) ? positive : T(0)}};
    } else {
      const bool positive = e.y > T(0);
      const T x = exp_difference(positive ? -e.s : e.s, positive ? m[1] : m[0]);
      return {{positive ? T(0) : x, positive ? x : T(0)}};
    }
  }

  // Returns the same times the weight with both m at 0. Nothing is subtracted, so inf - inf cannot occur.
  template <class E>
  static MLLOSS_HD Array<T, 2> first_exponentials(E e) {
    if constexpr (E::kSoft && !E::kReady) {
      const Array<T, 2> x = exponentials(e, {{T(0), T(0)}});
      return {{e.w * x[0], e.w * x[1]}};
    }
    return first_exponentials(e, own_power(e));
  }

  template <class E>
  static MLLOSS_HD Array<T, 2> first_exponentials(E e, T power) {
    const Array<T, 2> x = sides_from(e, power);
    return {{e.w * x[0], e.w * x[1]}};
  }

  template <class E>
  static MLLOSS_HD T own_power(E e) {
    return power_of(e, !E::kSoft && e.y > T(0));
  }

 private:
  // Returns both sides from own_power(e).
  template <class E>
  static MLLOSS_HD Array<T, 2> sides_from(E e, T power) {
    if constexpr (E::kSoft) {
      const T negative = (T(1) - e.y) * power, positive = e.y * flushed(reciprocal(power));
      return {{e.y < T(1) ? negative : zero_unless_nan(e.s), e.y > T(0) ? positive : T(0)}};
    }
    const bool positive = e.y > T(0);
    return {{positive ? T(0) : power, positive ? power : T(0)}};
  }

  static MLLOSS_HD T zero_unless_nan(T s) { return s == s ? T(0) : s; }
};

}  // namespace MLLOSS_ISA
}  // namespace mlloss
