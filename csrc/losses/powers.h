// Powers of a probability, by products where the exponent is a whole number of 0 to 4.
#pragma once

#include "functor.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

// The variants of a loss with such powers: for any exponent, for whole ones, and for those that are its defaults.
enum PowerVariant { kAnyPower = 0, kWholePower = 1, kDefaultPower = 2 };

MLLOSS_HD bool is_whole_power(double n) { return n == 0.0 || n == 1.0 || n == 2.0 || n == 3.0 || n == 4.0; }

// x^n. Its factors are constants of a loop, where a branch on n would not vectorise.
template <class T>
class WholePower {
 public:
  explicit MLLOSS_HD WholePower(double n)
      : one_(n == 2.0 || n == 4.0 ? T(1) : T(0)), two_(n > 2.0 ? T(1) : T(0)), none_(n == 0.0) {}

  // x^(n-1), for n = 0 any number.
  MLLOSS_HD T lower(T x) const { return (one_ * x + (T(1) - one_)) * (two_ * (x * x) + (T(1) - two_)); }

  // x^n from it. A NaN stays one, for n = 0 too.
  MLLOSS_HD T raised(T x, T lower) const { return none_ ? T(1) + (x - x) : lower * x; }

 private:
  T one_, two_;  // 1 where n - 1 has that bit, else 0
  bool none_;
};

}  // namespace MLLOSS_ISA
}  // namespace mlloss
