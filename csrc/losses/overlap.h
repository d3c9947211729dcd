// The base of losses that compare an overlap with the sizes of the prediction and of the truth, over a group (a row, a
// label or the whole batch). With P = sum p^q, Y = sum y^q, I = sum p y:
//   score = (2 I + c) / ((2 - a - b) I + a P + b Y + c)
// is Dice's for a = b = 1, and Tversky's (alpha, beta) for a = 2 alpha, b = 2 beta, where c is twice its smoothing. The
// loss is (1 - score)^g, or -log(score) with log.
#pragma once

#include "functor.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

template <class T, class Loss>
class Overlap : public GroupWiseWithoutMaxima<Loss> {
 public:
  static constexpr bool kAcrossRows = true;
  static constexpr int kSums = 3, kCoefficients = 2;  // the sums are I, P and Y

  // parameters: c; 1 for squares (q = 2); a; b; g; 1 for log.
  explicit MLLOSS_HD Overlap(const double* parameters)
      : smooth_(static_cast<T>(parameters[0])),
        linear_(parameters[1] == 0.0 ? T(1) : T(0)),
        squared_(parameters[1] == 0.0 ? T(0) : T(1)),
        predicted_(static_cast<T>(parameters[2])),
        true_(static_cast<T>(parameters[3])),
        gamma_(static_cast<T>(parameters[4])),
        log_(parameters[5] != 0.0) {}

  template <class A>
  MLLOSS_HD Array<A, 2> finalize(Statistics<A, 0, 3> stats, A& value) const {
    const A smooth = static_cast<A>(smooth_), q = A(1) + static_cast<A>(squared_);
    const A a = static_cast<A>(predicted_), b = static_cast<A>(true_), rest = A(2) - a - b;
    const A numerator = A(2) * stats.sums[0] + smooth;
    const A denominator = rest * stats.sums[0] + a * stats.sums[1] + b * stats.sums[2] + smooth;
    // An empty group without smoothing has a loss of 0.
    if (denominator == A(0)) {
      value = A(0);
      return {{A(0), A(0)}};
    }
    const A lost = (denominator - numerator) / denominator, score = numerator / denominator;
    const Slopes<A> slopes = log_ ? logarithmic(score, rest, value) : power_of(lost, score, rest, value);
    // If every target is 0, the first coefficient only multiplies zeros. It is set to 0, because 1 / denominator may
    // overflow, and 0 * inf is NaN.
    const bool nothing_true = stats.sums[0] == A(0) && stats.sums[2] == A(0);
    return {{nothing_true ? A(0) : -slopes.overlap / denominator, q * (a * slopes.size) / denominator}};
  }

  static MLLOSS_HD Array<T, 2> scaled(Array<T, 2> c, T factor) { return {{c[0] * factor, c[1] * factor}}; }

 protected:
  T smooth_;
  T linear_, squared_;  // 1 and 0, or 0 and 1; products, because a branch would not vectorise
  T predicted_, true_, gamma_;
  bool log_;

  // Returns x^q exactly.
  MLLOSS_HD T power(T x) const { return x * (linear_ + squared_ * x); }

  template <class E>
  MLLOSS_HD Array<T, 3> sums_of(E e, T p) const {
    if constexpr (E::kNegative) return {{T(0), e.w * power(p), T(0)}};
    return {{e.w * (p * e.y), e.w * power(p), e.w * power(e.y)}};
  }

  // Returns d value / d p without the weight.
  template <class E>
  MLLOSS_HD T slope_of(E e, T p, Array<T, 2> c) const {
    const T slope = (linear_ + squared_ * p) * c[1];
    if constexpr (E::kNegative) return slope;
    return e.y * c[0] + slope;
  }

 private:
  // The derivatives of the loss times the denominator: `overlap` in -I, `size` in a * P.
  template <class A>
  struct Slopes {
    A overlap, size;
  };

  template <class A>
  static MLLOSS_HD Slopes<A> logarithmic(A score, A rest, A& value) {
    value = -log_positive(score);
    // The loss is infinite if nothing overlaps, and no label's gradient could reduce it.
    return {score == A(0) ? A(0) : A(2) / score - rest, A(1)};
  }

  template <class A>
  MLLOSS_HD Slopes<A> power_of(A lost, A score, A rest, A& value) const {
    const A gamma = static_cast<A>(gamma_);
    A slope = A(1);
    value = lost;
    if (gamma != A(1)) {
      // At a loss of 0 the gradient has its limit, 0: p (1 - p) vanishes faster than any power of it grows.
      const A log_lost = log_positive(lost);
      value = lost <= A(0) ? A(0) : exponential(gamma * log_lost);
      slope = lost <= A(0) ? A(0) : gamma * exponential((gamma - A(1)) * log_lost);
    }
    return {slope * (A(2) - rest * score), slope * score};
  }
};

}  // namespace MLLOSS_ISA
}  // namespace mlloss
