// Asymmetric loss, ASL: positives (1 - p)^g+ (-log p), negatives u^g- (-log(1 - u)), u = max(p - m, 0)
// (Ridnik et al. 2021, arXiv:2009.14119)
//
// 1 - u = sigmoid(-s) + m needs no eps. Whole powers are products; other powers are exponentials of softplus, which is
// exact. The logit decides if u is above 0, because a power of u would amplify a rounding.
#pragma once

#include "powers.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

template <class T>
class Asymmetric : public ElementWise {
 public:
  static constexpr LogisticNeed kLogistic = LogisticNeed::kLogarithm;
  static constexpr int kVariants = 3;
  static constexpr LogisticNeed kNeeds[] = {kLogistic, LogisticNeed::kPower, LogisticNeed::kPower};
  static constexpr bool kNegatives = true;

  // parameters: g-, g+, m; 1 to treat the powers as constants in the gradient; logit(m).
  explicit MLLOSS_HD Asymmetric(const double* parameters)
      : gamma_negative_(static_cast<T>(parameters[0])),
        gamma_positive_(static_cast<T>(parameters[1])),
        clip_(static_cast<T>(parameters[2])),
        attached_(parameters[3] == 0.0 ? T(1) : T(0)),
        least_(static_cast<T>(parameters[4])),
        far_(parameters[2] > 0.0 ? T(INFINITY)
             : sizeof(T) == 4    ? T(40)
                                 : T(300)),
        level_(parameters[2] > 0.0 ? sizeof(T) == 4 ? T(41) : T(345) : T(INFINITY)),
        power_negative_(parameters[0]),
        power_positive_(parameters[1]),
        variant_(parameters[0] == 4.0 && parameters[1] == 1.0                     ? kDefaultPower
                 : is_whole_power(parameters[0]) && is_whole_power(parameters[1]) ? kWholePower
                                                                                  : kAnyPower) {}

  MLLOSS_HD int variant() const { return variant_; }

  template <int kVariant, class E>
  MLLOSS_HD ValueAndGradient<T> evaluate(E e) const {
    if constexpr (kVariant == kAnyPower) {
      const Logistic<T> l = logistic_of(e, false);
      if constexpr (E::kSoft) {
        return expectation(e.y, of_positive(l), of_negative(e.s, l));
      } else if constexpr (E::kNegative) {
        return of_negative(e.s, l);
      } else {
        const ValueAndGradient<T> positive = of_positive(l), negative = of_negative(e.s, l);
        const bool up = e.y > T(0);
        return {up ? positive.value : negative.value, up ? positive.gradient : negative.gradient};
      }
    } else {
      if constexpr (E::kSoft) {
        return expectation(e.y, by_products<kVariant>(e, true), by_products<kVariant>(e, false));
      } else {
        return by_products<kVariant>(e, !E::kNegative && e.y > T(0));
      }
    }
  }

  MLLOSS_HD bool serves_negatives() const { return variant_ == kDefaultPower && clip_ >= T(1e-6); }

  // The values, for l = -log(1 - u), are u^4 l and the gradients u^3 (4 p q l + u p q / (1 - u)).
  template <int kCount>
  MLLOSS_HD bool negatives(const float* s, float factor, float* g, float& value) const {
    const float clip = static_cast<float>(clip_), most = 1.0f - clip, focus = 4.0f * static_cast<float>(attached_);
    value = 0.0f;
    for (int i = 0; i < kCount; ++i) {
      // One division yields both p = 1 / (1 + x) and q / (1 - u), with 1 - u = (x + clip (1 + x)) / (1 + x).
      const float x = power_of_two(at_most(s[i] * -kLog2e, 60.0f)), whole = 1.0f + x;
      const float clipped = multiply_add(clip, whole, x), inverse = reciprocal(whole * clipped), p = inverse * clipped;
      const float u = at_least(multiply_add(-clip, x, most), 0.0f) * p, rest = 1.0f - u;
      const float far = log2_approximate(rest) * -kLn2;
      const float l = u < 0.25f ? u * minus_log_over_quarter(u) : far;
      const float slope = multiply_add((x * p) * (focus * p), l, u * (x * inverse));
      const float square = u * u, cube = square * u;
      value = i == 0 ? square * square * l : multiply_add(square * square, l, value);
      g[i] = cube * factor * slope;
    }
    return true;
  }

 private:
  T gamma_negative_, gamma_positive_, clip_;
  T attached_;  // 1 or 0; a product, because a branch would not vectorise
  T least_;
  T far_;  // without a clip: softplus(s) equals s beyond this distance
  T least_tail_ = reciprocal(T(1) + logistic_power(T(INFINITY)));  // the value of 1 - p at the cap of e^s
  T level_;  // with a clip: the loss is constant beyond this logit
  WholePower<T> power_negative_, power_positive_;
  int variant_;

  // Returns a finite factor. At an infinite logit the other factor then decides the limit of the product.
  static MLLOSS_HD T finite(T x) { return at_most(x, T(1e30)); }

  // The loss of a positive falls as its logit grows.
  static MLLOSS_HD T with_sign(bool positive, T slope) { return positive ? -slope : slope; }

  // Returns the value v^g (-log(1 - v)) and its gradient; v is 1 - p for a positive and u for a negative.
  template <int kVariant, class E>
  MLLOSS_HD ValueAndGradient<T> by_products(const E& e, bool positive) const {
    // For a negative, p is 1 beyond e^s = kMost, and the loss is constant there if the clip exceeds 1 / kMost.
    constexpr T kMost = sizeof(T) == 4 ? T(1e18) : T(1e150), kFar = sizeof(T) == 4 ? T(80) : T(700);
    const T power = positive ? capped_power_of(e) : at_most(capped_power_of(e), kMost);
    // One division yields both q = 1 / (1 + power) and 1 / (q + clip).
    const T whole = T(1) + power, clipped = positive ? T(1) : T(1) + clip_ * whole;
    const T inverse = reciprocal(whole * clipped);
    const T tail = positive ? inverse : inverse * clipped, q = positive ? tail - least_tail_ : tail;
    const T p = power * tail, u = multiply_add(power, tail, -clip_), v = positive ? q : u < T(0) ? T(0) : u;
    const T logarithm = minus_log_of(v, positive ? p : q + clip_);
    const T lost = positive ? -e.s : e.s;
    const T cost = lost > (positive ? kFar : far_) ? lost : logarithm;
    const Powers powers = powers_of<kVariant>(v, positive);
    const T focus = attached_ * (positive ? gamma_positive_ : gamma_negative_);
    const T slope = powers.raised * (positive ? q : power * inverse) + focus * powers.lower * (p * q * logarithm);
    const T value = powers.raised * cost;
    const T level = positive ? T(INFINITY) : level_;
    // The default powers of u = 0 are 0 and need no threshold; other powers do. A NaN is below no threshold.
    const bool counts = kVariant == kDefaultPower || positive || !(e.s <= least_);
    const T gradient = with_sign(positive, slope);
    return {counts ? value : T(0), !counts || e.s > level ? T(0) : gradient};
  }

  // v^g and v^(g-1)
  struct Powers {
    T raised, lower;
  };

  template <int kVariant>
  MLLOSS_HD Powers powers_of(T v, bool positive) const {
    if constexpr (kVariant == kDefaultPower) {
      const T lower = positive ? T(1) : v * v * v;
      return {lower * v, lower};
    } else {
      const T for_positive = power_positive_.lower(v), for_negative = power_negative_.lower(v);
      return {positive ? power_positive_.raised(v, for_positive) : power_negative_.raised(v, for_negative),
              positive ? for_positive : for_negative};
    }
  }

  MLLOSS_HD ValueAndGradient<T> of_positive(Logistic<T> l) const {
    const T modulation = exponential(-gamma_positive_ * finite(l.softplus));
    const T focus = attached_ * gamma_positive_ * l.sigmoid * finite(l.softplus_negated);
    return {modulation * l.softplus_negated, with_sign(true, modulation * (focus + l.sigmoid_negated))};
  }

  MLLOSS_HD ValueAndGradient<T> of_negative(T s, Logistic<T> l) const {
    const T p = l.sigmoid, q = l.sigmoid_negated, rest = q + clip_;
    const bool clipped = clip_ > T(0);
    const T u = p > clip_ ? p - clip_ : T(0);
    const T ratio = minus_log_over(u, rest);  // -log(1 - u) / u
    const T cost = clipped ? u * ratio : l.softplus;
    // If there is no clip, u equals p, and this logarithm is exact even if p rounds to 0.
    const T minus_log = clipped ? -logarithm(u) : l.softplus_negated;
    const T modulation = exponential(-gamma_negative_ * finite(minus_log));
    const T share = clipped ? p * q * reciprocal(rest) : p;
    const T focus = clipped ? p * q * ratio : q * finite(l.softplus);
    const T slope = share + attached_ * gamma_negative_ * focus;
    // A NaN logit gives NaN.
    const T nothing = s == s ? T(0) : s;
    return s > least_ ? ValueAndGradient<T>{modulation * cost, modulation * slope}
                      : ValueAndGradient<T>{nothing, nothing};
  }
};

}  // namespace MLLOSS_ISA
}  // namespace mlloss
