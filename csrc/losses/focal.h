// Sigmoid focal loss: alpha_t (1 - p_t)^gamma CE   (Lin et al. 2017, arXiv:1708.02002)
//
// gamma = 0 without alpha is binary cross-entropy. For hard labels, with z = (2y-1)s, (1 - p_t)^gamma is a product of
// tails or e^(-gamma softplus(z)), so neither a power nor a division can spoil value or gradient at any z.
// Probabilities follow torchvision: 1 - p_t = p(1-y) + (1-p)y.
#pragma once

#include "powers.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

template <class T>
class SigmoidFocal : public ElementWise {
 public:
  static constexpr LogisticNeed kLogistic = LogisticNeed::kLogarithm;
  static constexpr int kVariants = 3;
  static constexpr LogisticNeed kNeeds[] = {kLogistic, kLogistic, kLogistic};
  static constexpr bool kNegatives = true;

  // parameters: gamma; the weights alpha_t of a negative and of a positive (1 and 1 without alpha).
  explicit MLLOSS_HD SigmoidFocal(const double* parameters)
      : gamma_(static_cast<T>(parameters[0])),
        negative_(static_cast<T>(parameters[1])),
        positive_(static_cast<T>(parameters[2])),
        negative_cap_(cap_of(negative_)),
        positive_cap_(cap_of(positive_)),
        power_(parameters[0]),
        variant_(parameters[0] == 2.0            ? kDefaultPower
                 : is_whole_power(parameters[0]) ? kWholePower
                                                 : kAnyPower) {}

  MLLOSS_HD int variant() const { return variant_; }

  template <int kVariant, class E>
  MLLOSS_HD ValueAndGradient<T> evaluate(E e) const {
    if constexpr (E::kSoft) return soft<kVariant>(e);
    const bool positive = e.y > T(0);
    const T alpha = positive ? positive_ : negative_;
    const Logistic<T> l = logistic_of(e, !positive);
    const T modulation = alpha * power<kVariant>(l.sigmoid_negated, l.softplus);
    // These two bounds may lose a NaN, which the other factors keep.
    const T focus = gamma_ * l.sigmoid * smaller(l.softplus_negated, kLargestFactor);
    const T slope = modulation * (focus + l.sigmoid_negated);
    const T cost = smaller(l.softplus_negated, positive ? positive_cap_ : negative_cap_);
    return {modulation * cost, positive ? -slope : slope};
  }

  MLLOSS_HD bool serves_negatives() const { return variant_ == kDefaultPower; }

  // The values, for l = log(1 + e^s), are p^2 l and the gradients p^2 (2 q l + p).
  template <int kCount>
  MLLOSS_HD bool negatives(const float* s, float factor, float* g, float& value) const {
    const float scale = factor * static_cast<float>(negative_);
    float sum = 0.0f;
    for (int i = 0; i < kCount; ++i) {
      const float x = power_of_two(at_most(s[i] * -kLog2e, 126.0f));
      const float p = reciprocal(1.0f + x), q = x * p, less = at_most(p, q);
      const float l = multiply_add(less, minus_log_over_half(less), at_least(s[i], 0.0f));
      const float square = p * p;
      sum = i == 0 ? square * l : multiply_add(square, l, sum);
      g[i] = square * scale * multiply_add(2.0f * q, l, p);
    }
    value = sum * static_cast<float>(negative_);
    return sum < INFINITY;
  }

 private:
  static constexpr T kLargestFactor = T(1e30);

  T gamma_, negative_, positive_, negative_cap_, positive_cap_;
  WholePower<T> power_;
  int variant_;

  // Returns x^gamma, from x or from -log(x).
  template <int kVariant>
  MLLOSS_HD T power(T x, T minus_log) const {
    if constexpr (kVariant == kDefaultPower) return x * x;
    if constexpr (kVariant == kWholePower) return power_.raised(x, power_.lower(x));
    return exponential(-gamma_ * finite(minus_log));
  }

  // Returns a finite factor. At an infinite logit the other factor, a sigmoid of 0 or gamma = 0, then decides the limit
  // of the product.
  static MLLOSS_HD T finite(T x) { return at_most(x, kLargestFactor); }

  template <int kVariant, class E>
  MLLOSS_HD ValueAndGradient<T> soft(E e) const {
    const T y = e.y;
    const Logistic<T> l = logistic_of(e, false);
    const T p = l.sigmoid, q = l.sigmoid_negated;
    const T alpha = positive_ * y + negative_ * (T(1) - y);
    // A label that is exactly 0 or 1 has one term; the other would be 0 * inf at an infinite logit.
    const T ce = (y < T(1) ? (T(1) - y) * l.softplus : T(0)) + (y > T(0) ? y * l.softplus_negated : T(0));
    const T miss = p * (T(1) - y) + q * y;
    const T inner = kVariant == kAnyPower ? logarithm(miss) : T(0);
    const T log_miss = y > T(0) ? (y < T(1) ? inner : -l.softplus) : -l.softplus_negated;
    const T modulation = alpha * power<kVariant>(miss, -log_miss);
    // p q / miss, except for hard labels, where the division is 0 / 0.
    const T between = p * q * reciprocal(miss);
    const T ratio = y > T(0) ? (y < T(1) ? between : p) : q;
    const T slope = (p - y) + gamma_ * (T(1) - T(2) * y) * ratio * finite(ce);
    const T exact = y > T(0) ? (y < T(1) ? slope : -q - gamma_ * p * finite(ce)) : slope;
    return {modulation * at_most(ce, cap_of(alpha)), modulation * exact};
  }
};

}  // namespace MLLOSS_ISA
}  // namespace mlloss
