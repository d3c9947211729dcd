// Powers of a probability, as products if the exponent is a whole number from 0 to 4.
#pragma once

#include "functor.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

// The variants of a loss with such powers: any exponent, whole exponents, and the loss's default exponents.
enum PowerVariant { kAnyPower = 0, kWholePower = 1, kDefaultPower = 2 };

MLLOSS_HD bool is_whole_power(double n) { return n == 0.0 || n == 1.0 || n == 2.0 || n == 3.0 || n == 4.0; }

// x^n from factors that are constant in a loop; a branch on n would not vectorise.
template <class T>
class WholePower {
 public:
  explicit MLLOSS_HD WholePower(double n)
      : one_(n == 2.0 || n == 4.0 ? T(1) : T(0)), two_(n > 2.0 ? T(1) : T(0)), none_(n == 0.0 ? T(1) : T(0)) {}

  // Returns x^(n-1), and any number for n = 0.
  MLLOSS_HD T lower(T x) const { return (one_ * x + (T(1) - one_)) * (two_ * (x * x) + (T(1) - two_)); }

  // Returns x^n from x^(n-1) for a finite x. A NaN stays NaN, also for n = 0.
  MLLOSS_HD T raised(T x, T lower) const {
    const T power = lower * x;
    return none_ > T(0) ? T(1) + (x - x) : power;
  }

 private:
  T one_, two_;  // 1 if n - 1 has that bit, else 0
  T none_;       // 1 for n = 0, else 0
};

}  // namespace MLLOSS_ISA
}  // namespace mlloss
