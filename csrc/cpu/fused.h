// Sums of losses that are known at compile time. One loop over a block serves all terms, which share the logistic
// function and e^s. Other sums, and tiles with weights or large logits, are evaluated term by term (compound.h).
#pragma once

#include "../losses/compound.h"
#include "tile_math.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

// A term of a sum, and the places of its numbers among those of all terms.
struct TermPlace {
  double coefficient;
  const double* parameters;
  int statistics, coefficients;
};

// The functions of a fused sum over a tile. Each returns false, without side effects, if the tile must be evaluated
// term by term. If `statistics` returns false for a tile, the others do too. `powers`, unless null, is memory that
// carries e^s from the first visit to the second.
template <class T>
struct FusedFunctions {
  // Stores the groups' statistics with all maxima at 0, each term's at its place.
  bool (*statistics)(const TermPlace* places, const Tile<T>& tile, T* powers, double* out);
  // Forms the sum of the gradients times f from the coefficients of a row, which are `stride` apart. `values` grow by
  // the values of element-wise terms. `g` may be `powers`, but not the logits.
  bool (*form)(const TermPlace* places, const Tile<T>& tile, const T* powers, const T* coefficients, int64_t stride,
               T f, double* values, T* g);
  // Adds to `values` what `form` adds, equal to the last bit, for a call without a gradient.
  bool (*values)(const TermPlace* places, const Tile<T>& tile, const T* coefficients, int64_t stride, double* values);
};

template <class T, template <class> class LossTemplate>
class FusedTerm {
 public:
  using Loss = LossTemplate<T>;
  static constexpr bool kElement = Loss::kScope == Scope::kElement;
  static constexpr int kSums = Loss::kSums, kValues = kElement ? 1 : 0;
  static constexpr bool kTakesPower = takes_power<Loss>();
  static_assert(!Loss::kSoftmaxOverLabels && Loss::kSecondPassSums == 0,
                "all terms of a fused sum read the same tile, in two visits");

  explicit FusedTerm(const TermPlace& place) : loss_(place.parameters) {}

  // This constructor serves gradients.
  FusedTerm(const TermPlace& place, const T* coefficients, int64_t stride, T f)
      : loss_(place.parameters), factor_(f * static_cast<T>(place.coefficient)) {
    if constexpr (!kElement) {
      for (int k = 0; k < Loss::kCoefficients; ++k) c_[k] = coefficients[(place.coefficients + k) * stride];
      zero_maxima_ = Loss::zero_maxima(c_);
      c_ = Loss::scaled(c_, factor_);
    }
  }

  bool zero_maxima() const { return zero_maxima_; }
  bool needs_max_shift(const T* sums) const {
    if constexpr (kElement) {
      return false;
    } else {
      return loss_.needs_max_shift(array(sums));
    }
  }

  static void store(const T* sums, double* out) {
    for (int k = 0; k < Loss::kMaxima; ++k) *out++ = 0.0;
    for (int k = 0; k < kSums; ++k) *out++ = static_cast<double>(sums[k]);
  }

  template <class E>
  MLLOSS_HD Array<T, kSums> sums(const E& e) const {
    if constexpr (kElement) {
      return {};
    } else {
      return loss_.first_sums(e);
    }
  }

  template <class E>
  MLLOSS_HD T gradient(const E& e) const {
    return loss_.gradient_at_zero_maxima(e, c_);
  }

  template <int kVariant, class E>
  MLLOSS_HD ValueAndGradient<T> evaluate(const E& e) const {
    const ValueAndGradient<T> r = evaluated<kVariant>(loss_, e);
    return {r.value, r.gradient * factor_};
  }

  const Loss& loss() const { return loss_; }

 private:
  Loss loss_;
  Array<T, Loss::kCoefficients> c_{};
  T factor_ = T(0);
  bool zero_maxima_ = true;

  static Array<T, kSums> array(const T* sums) {
    Array<T, kSums> all{};
    for (int k = 0; k < kSums; ++k) all[k] = sums[k];
    return all;
  }
};

template <class T, template <class> class... Losses>
struct FusedTerms {
  static constexpr int kSums = 0, kValues = 0;
  static constexpr bool kTakesPower = false;  // true if an element-wise term reads e^s itself
  static constexpr LogisticNeed kLogistic = LogisticNeed::kNothing;

  template <class... Rest>
  explicit FusedTerms(const TermPlace*, const Rest&...) {}
  bool zero_maxima() const { return true; }
  bool needs_max_shift(const T*) const { return false; }
  static void store(const TermPlace*, const T*, double*) {}
  template <class E>
  MLLOSS_HD Array<T, 0> sums(const E&) const {
    return {};
  }
  template <class E>
  MLLOSS_HD T group_gradient(const E&) const {
    return T(0);
  }
  template <int kVariant, class E>
  MLLOSS_HD T element_gradient(const E&, T*) const {
    return T(0);
  }
  template <class F>
  void with_variant(F f) const {
    f(std::integral_constant<int, 0>());
  }
};

template <class T, template <class> class FirstLoss, template <class> class... Others>
struct FusedTerms<T, FirstLoss, Others...> {
  using First = FusedTerm<T, FirstLoss>;
  using Rest = FusedTerms<T, Others...>;
  static constexpr int kSums = First::kSums + Rest::kSums, kValues = First::kValues + Rest::kValues;
  static constexpr LogisticNeed kLogistic =
      First::Loss::kLogistic > Rest::kLogistic ? First::Loss::kLogistic : Rest::kLogistic;

  static constexpr bool kTakesPower = First::kTakesPower || Rest::kTakesPower;

  First first;
  Rest rest;

  template <class... Given>
  explicit FusedTerms(const TermPlace* places, const Given&... given)
      : first(places[0], given...), rest(places + 1, given...) {}

  bool zero_maxima() const { return first.zero_maxima() && rest.zero_maxima(); }
  bool needs_max_shift(const T* sums) const {
    return first.needs_max_shift(sums) || rest.needs_max_shift(sums + First::kSums);
  }

  static void store(const TermPlace* places, const T* sums, double* out) {
    First::store(sums, out + places[0].statistics);
    Rest::store(places + 1, sums + First::kSums, out);
  }

  template <class E>
  MLLOSS_HD Array<T, kSums> sums(const E& e) const {
    return compound::joined(first.sums(e), rest.sums(e));
  }

  template <class E>
  MLLOSS_HD T group_gradient(const E& e) const {
    if constexpr (First::kElement) {
      return rest.group_gradient(e);
    } else {
      return first.gradient(e) + rest.group_gradient(e);
    }
  }

  // `values` has one number for each element-wise term.
  template <int kVariant, class E>
  MLLOSS_HD T element_gradient(const E& e, T* values) const {
    if constexpr (First::kElement) {
      const ValueAndGradient<T> r = first.template evaluate<kVariant>(e);
      values[0] = r.value;
      return r.gradient + rest.template element_gradient<kVariant>(e, values + 1);
    } else {
      return rest.template element_gradient<kVariant>(e, values);
    }
  }

  // The element-wise term chooses the variant. A fused sum has at most one.
  template <class F>
  void with_variant(F f) const {
    if constexpr (First::kElement) {
      static_assert(Rest::kValues == 0, "a fused sum has at most one element-wise term");
      mlloss::with_variant(first.loss(), f);
    } else {
      rest.with_variant(f);
    }
  }
};

template <class T, template <class> class... Losses>
class Fused {
  using Terms = FusedTerms<T, Losses...>;
  static constexpr int kMost = 6;
  static_assert(Terms::kSums <= kMost && Terms::kValues <= 2,
                "the loops have one reduction variable for each sum and value");

 public:
  static bool statistics(const TermPlace* places, const Tile<T>& tile, T* powers, double* out) {
    if (tile.weighted) return false;
    const Terms terms(places);
    T sums[kMost];
    with_targets(tile, [&](auto kind) { sums_of(kind, terms, tile, powers, sums); });
    if (terms.needs_max_shift(sums)) return false;
    Terms::store(places, sums, out);
    return true;
  }

  static bool form(const TermPlace* places, const Tile<T>& tile, const T* powers, const T* coefficients, int64_t stride,
                   T f, double* values, T* g) {
    if (tile.weighted) return false;
    const Terms terms(places, coefficients, stride, f);
    if (!terms.zero_maxima()) return false;
    T own[2];
    with_targets(tile, [&](auto kind) { form_as(kind, terms, tile, powers, own, g); });
    if (values) add_values(own, values);
    return true;
  }

  static bool values(const TermPlace* places, const Tile<T>& tile, const T* coefficients, int64_t stride,
                     double* values) {
    if (tile.weighted) return false;
    const Terms terms(places, coefficients, stride, T(1));
    if (!terms.zero_maxima()) return false;
    T own[2];
    with_targets(tile, [&](auto kind) { values_of(kind, terms, tile, own); });
    add_values(own, values);
    return true;
  }

 private:
  static void add_values(const T* own, double* values) {
    int k = 0;
    const bool element[] = {FusedTerm<T, Losses>::kElement...};
    for (size_t i = 0; i < sizeof...(Losses); ++i) values[i] += element[i] ? static_cast<double>(own[k++]) : 0.0;
  }

  template <class F>
  static void with_targets(const Tile<T>& tile, F f) {
    if (tile.targets == Targets::kSoft) return f(TileKind<Targets::kSoft, false>());
    if (tile.targets == Targets::kHard) return f(TileKind<Targets::kHard, false>());
    f(TileKind<Targets::kNegative, false>());
  }

  template <Targets kTargets>
  static void sums_of(TileKind<kTargets, false>, const Terms& all, const Tile<T>& tile, T* powers, T* out) {
    const Terms terms = all;
    T total[kMost] = {};
    alignas(64) T own[kBlock];
    for (int begin = 0; begin < tile.size; begin += kBlock) {
      const int size = begin + kBlock < tile.size ? kBlock : tile.size - begin;
      T* const power = powers ? powers + begin : own;
      make_powers(tile.s + begin, size, power);
      const Columns<T> x(tile, begin, power);
      T a = T(0), b = T(0), c = T(0), d = T(0), e = T(0), f = T(0);
#pragma omp simd reduction(+ : a, b, c, d, e, f)
      for (int j = 0; j < size; ++j) add_one<kTargets>(terms, x, j, a, b, c, d, e, f);
      const T run[kMost] = {a, b, c, d, e, f};
      for (int k = 0; k < kMost; ++k) total[k] += run[k];
    }
    for (int k = 0; k < kMost; ++k) out[k] = total[k];
  }

  template <Targets kTargets>
  static void form_as(TileKind<kTargets, false>, const Terms& all, const Tile<T>& tile, const T* powers, T* values,
                      T* g) {
    const Terms terms = all;
    T total[2] = {};
    alignas(64) T own[kBlock];
    ReadyParts<T> parts;
    for (int begin = 0; begin < tile.size; begin += kBlock) {
      const int size = begin + kBlock < tile.size ? kBlock : tile.size - begin;
      if (!powers) make_powers(tile.s + begin, size, own);
      // The first loop below may overwrite the stored powers, which the second loop still reads.
      constexpr bool kCopied = Terms::kTakesPower;
      if (kCopied && powers) memcpy(own, powers + begin, sizeof(T) * static_cast<size_t>(size));
      const T* const power = powers && !kCopied ? powers + begin : own;
      make_ready<Terms::kLogistic>(power, size, parts);
      const Columns<T> x(tile, begin, power, parts);
      T* const block = g + begin;
      // One loop for both needs more constants than there are registers.
#pragma omp simd
      for (int j = 0; j < size; ++j)
        block[j] = terms.group_gradient(ready_element<kTargets, false, Terms::kLogistic>(x, j));
      if constexpr (Terms::kValues > 0) add_elements<kTargets>(terms, x, size, block, total);
    }
    values[0] = total[0];
    values[1] = total[1];
  }

  template <Targets kTargets>
  static void values_of(TileKind<kTargets, false>, const Terms& all, const Tile<T>& tile, T* values) {
    const Terms terms = all;
    values[0] = values[1] = T(0);
    if constexpr (Terms::kValues > 0) {
      alignas(64) T power[kBlock], unused[kBlock] = {};
      ReadyParts<T> parts;
      for (int begin = 0; begin < tile.size; begin += kBlock) {
        const int size = begin + kBlock < tile.size ? kBlock : tile.size - begin;
        make_powers(tile.s + begin, size, power);
        make_ready<Terms::kLogistic>(power, size, parts);
        add_elements<kTargets>(terms, Columns<T>(tile, begin, power, parts), size, unused, values);
      }
    }
  }

  template <Targets kTargets>
  static void add_elements(const Terms& terms, const Columns<T>& x, int size, T* g, T* total) {
    terms.with_variant([&](auto variant) { add_elements_as<kTargets, variant>(terms, x, size, g, total); });
  }

  // This is not inlined, so that values with and without gradients are equal to the last bit.
  template <Targets kTargets, int kVariant>
  static __attribute__((noinline)) void add_elements_as(const Terms& all, const Columns<T>& columns, int size, T* g,
                                                        T* total) {
    // These are copies, which cannot overlap g. Without them the loop is not vectorised.
    const Terms terms = all;
    const Columns<T> x = columns;
    T a = T(0), b = T(0);
#pragma omp simd reduction(+ : a, b)
    for (int j = 0; j < size; ++j) form_one<kTargets, kVariant>(terms, x, j, g, a, b);
    total[0] += a;
    total[1] += b;
  }

  template <Targets kTargets>
  static MLLOSS_HD void add_one(const Terms& terms, const Columns<T>& x, int j, T& a, T& b, T& c, T& d, T& e, T& f) {
    const auto v = terms.sums(powered_element<kTargets, false>(x, j, x.power[j]));
    if constexpr (Terms::kSums > 0) a += v[0];
    if constexpr (Terms::kSums > 1) b += v[1];
    if constexpr (Terms::kSums > 2) c += v[2];
    if constexpr (Terms::kSums > 3) d += v[3];
    if constexpr (Terms::kSums > 4) e += v[4];
    if constexpr (Terms::kSums > 5) f += v[5];
  }

  template <Targets kTargets, int kVariant>
  static MLLOSS_HD void form_one(const Terms& terms, const Columns<T>& x, int j, T* g, T& a, T& b) {
    T values[2] = {};
    auto e = ready_element<kTargets, false, Terms::kLogistic>(x, j);
    e.parameter = x.parameters[j];
    g[j] += terms.template element_gradient<kVariant>(e, values);
    a += values[0];
    if constexpr (Terms::kValues > 1) b += values[1];
  }
};

}  // namespace MLLOSS_ISA
}  // namespace mlloss
