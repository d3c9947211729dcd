// Binary cross-entropy: w [q y log(1 + e^-s) + (1 - y) log(1 + e^s)], with a q for each label
#pragma once

#include "functor.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

template <class T>
class Bce : public ElementWise {
 public:
  static constexpr LogisticNeed kLogistic = LogisticNeed::kLogarithm;
  static constexpr bool kLabelParameter = true;  // q
  static constexpr bool kSeparates = true, kNegatives = true;

  // parameters: a factor of every q.
  explicit MLLOSS_HD Bce(const double* parameters) : positive_(static_cast<T>(parameters[0])) {}

  template <class E>
  MLLOSS_HD ValueAndGradient<T> evaluate(E e) const {
    const T q = positive_ * e.parameter;
    if constexpr (E::kSoft) {
      const Logistic<T> l = logistic_of(e, false);
      return expectation(e.y, {q * at_most(l.softplus_negated, cap_of(q)), -q * l.sigmoid_negated},
                         {l.softplus, l.sigmoid});
    } else {
      const bool positive = e.y > T(0);
      const Logistic<T> l = logistic_of(e, positive);
      if constexpr (E::kNegative) return {l.softplus, l.sigmoid};
      const T factor = positive ? q : T(1);
      return {factor * at_most(l.softplus, cap_of(factor)), positive ? -q * l.sigmoid : l.sigmoid};
    }
  }

  MLLOSS_HD bool separates(bool label_parameters) const { return positive_ == T(1) && !label_parameters; }

  // Valid for negatives, and for positives with q = 1.
  template <class E>
  MLLOSS_HD Separated<T> separated(E e) const {
    const LogisticTails<T> l = tails_of(e);
    const T up = larger(e.s, T(0)), down = larger(-e.s, T(0));
    if constexpr (E::kNegative) return {up, l.tail, l.sigmoid};
    if constexpr (E::kSoft) {
      const ValueAndGradient<T> r = expectation(e.y, {down, -l.sigmoid_negated}, {up, l.sigmoid});
      return {r.value, l.tail, r.gradient};
    }
    const bool positive = e.y > T(0);
    return {positive ? down : up, l.tail, positive ? -l.sigmoid_negated : l.sigmoid};
  }

  MLLOSS_HD bool serves_negatives() const { return true; }

  // One logarithm serves eight values log(1 + e^s): that of the product of all 1 + e^s, which is stored without its 1.
  template <int kCount>
  MLLOSS_HD bool negatives(const float* s, float factor, float* g, float& value) const {
    constexpr int kProduct = kCount < 8 ? kCount : 8;
    static_assert(kCount % kProduct == 0, "products have the same number of factors");
    value = 0.0f;
    float largest = 0.0f;
    for (int first = 0; first < kCount; first += kProduct) {
      float product = 0.0f;
      for (int i = first; i < first + kProduct; ++i) {
        const float x = power_of_two(s[i] * kLog2e), one = 1.0f + x;
        product = i == first ? x : multiply_add(product, one, x);
        g[i] = x * (reciprocal(one) * factor);
      }
      value += logarithm_of_product(product);
      largest = at_least(product, largest);
    }
    return largest < 8.5e37f;  // 2^126
  }

 private:
  T positive_;
};

}  // namespace MLLOSS_ISA
}  // namespace mlloss
