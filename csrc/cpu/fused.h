// Sums of losses that are known at compile time. One loop over a block serves all terms, which share the logistic
// function and e^s: the group-wise terms are one functor (losses/compound.h), and an element-wise term is another.
// Other sums, and tiles with weights or large logits, are evaluated term by term (compound.h).
#pragma once

#include <algorithm>

#include "../losses/compound.h"
#include "tile_math.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

// A term of a sum: its block of parameters (losses/compound.h), and the places of its numbers among those of all terms.
struct TermPlace {
  const double* block;
  int statistics, coefficients;

  double coefficient() const { return block[0]; }
  const double* parameters() const { return block + 1; }
};

// The functions of a fused sum over a tile. Each returns false, without side effects, if the tile must be evaluated
// term by term. If `statistics` returns false for a tile, the others do too. `powers`, unless null, is memory that
// carries e^s from the first visit to the second.
template <class T>
struct FusedFunctions {
  // Stores the groups' statistics with all maxima at 0, each term's at its place.
  bool (*statistics)(const TermPlace* places, const Tile<T>& tile, T* powers, double* out);
  // Forms the sum of the gradients times f from the coefficients of a row, which are `stride` apart. `values` grow by
  // the value of the element-wise term. `g` may be `powers`, but not the logits.
  bool (*form)(const TermPlace* places, const Tile<T>& tile, const T* powers, const T* coefficients, int64_t stride,
               T f, double* values, T* g);
  // Adds to `values` what `form` adds, equal to the last bit, for a call without a gradient.
  bool (*values)(const TermPlace* places, const Tile<T>& tile, const T* coefficients, int64_t stride, double* values);
};

// Functor is the sum of the group-wise losses of a list.
template <class T, class Found, template <class> class... Losses>
struct GroupsOf {
  using Functor = Found;
};

template <class T, template <class> class... Found, template <class> class First, template <class> class... Rest>
struct GroupsOf<T, Compound<T, Found...>, First, Rest...>
    : std::conditional_t<First<T>::kScope == Scope::kElement, GroupsOf<T, Compound<T, Found...>, Rest...>,
                         GroupsOf<T, Compound<T, Found..., First>, Rest...>> {};

// Functor is the element-wise loss of a list, or NoElements.
struct NoElements : ElementWise {
  explicit NoElements(const double*) {}
};

template <class T, template <class> class... Losses>
struct ElementsOf {
  using Functor = NoElements;
};

template <class T, template <class> class First, template <class> class... Rest>
struct ElementsOf<T, First, Rest...> {
  using Others = typename ElementsOf<T, Rest...>::Functor;
  static constexpr bool kFirst = First<T>::kScope == Scope::kElement;
  static_assert(!kFirst || std::is_same<Others, NoElements>::value, "a fused sum has at most one element-wise term");
  using Functor = std::conditional_t<kFirst, First<T>, Others>;
};

template <class T, template <class> class... Losses>
class Fused {
  using Groups = typename GroupsOf<T, Compound<T>, Losses...>::Functor;
  using Elements = typename ElementsOf<T, Losses...>::Functor;
  static constexpr bool kAnyElements = !std::is_same<Elements, NoElements>::value;
  static constexpr bool kIsElement[] = {Losses<T>::kScope == Scope::kElement...};
  static constexpr LogisticNeed kLogistic = std::max({Losses<T>::kLogistic...});
  static constexpr int kMost = 6;
  static_assert(Groups::kSums <= kMost, "the loop has one reduction variable for each sum");
  static_assert(((Losses<T>::kSecondPassSums == 0) && ...), "a fused sum reads its tile in two visits");

  // The coefficients of the groups and the factor of the element-wise gradient are set for gradients only.
  struct Terms {
    Groups groups;
    Elements elements;
    Array<T, Groups::kCoefficients> c{};
    T factor = T(0);
  };

 public:
  static bool statistics(const TermPlace* places, const Tile<T>& tile, T* powers, double* out) {
    if (tile.weighted) return false;
    const Terms terms = terms_of(places);
    Array<T, Groups::kSums> sums{};
    with_targets(tile, [&](auto kind) { sums_of(kind, terms, tile, powers, sums); });
    if (terms.groups.needs_max_shift(sums)) return false;
    const T* from = sums.v;
    ((from = store<Losses<T>>(*places++, from, out)), ...);
    return true;
  }

  static bool form(const TermPlace* places, const Tile<T>& tile, const T* powers, const T* coefficients, int64_t stride,
                   T f, double* values, T* g) {
    const Terms terms = terms_of(places, coefficients, stride, f);
    if (tile.weighted || !Groups::zero_maxima(terms.c)) return false;
    T value = T(0);
    with_targets(tile, [&](auto kind) { form_as(kind, terms, tile, powers, value, g); });
    if (values) add_value(value, values);
    return true;
  }

  static bool values(const TermPlace* places, const Tile<T>& tile, const T* coefficients, int64_t stride,
                     double* values) {
    const Terms terms = terms_of(places, coefficients, stride, T(1));
    if (tile.weighted || !Groups::zero_maxima(terms.c)) return false;
    T value = T(0);
    with_targets(tile, [&](auto kind) { values_of(kind, terms, tile, value); });
    add_value(value, values);
    return true;
  }

 private:
  static Terms terms_of(const TermPlace* places) {
    double blocks[Groups::kTerms * kTermParameters];
    const double* element = nullptr;
    double* next = blocks;
    for (size_t i = 0; i < sizeof...(Losses); ++i) {
      if (kIsElement[i]) {
        element = places[i].parameters();
      } else {
        memcpy(next, places[i].block, sizeof(double) * kTermParameters);
        next += kTermParameters;
      }
    }
    return {Groups(blocks), Elements(element)};
  }

  // The coefficients of the groups are adjacent, because an element-wise term has none.
  static Terms terms_of(const TermPlace* places, const T* coefficients, int64_t stride, T f) {
    Terms terms = terms_of(places);
    for (int k = 0; k < Groups::kOwn; ++k) terms.c[k] = coefficients[k * stride];
    terms.c = Groups::scaled(terms.c, f);
    for (size_t i = 0; i < sizeof...(Losses); ++i) {
      if (kIsElement[i]) terms.factor = f * static_cast<T>(places[i].coefficient());
    }
    return terms;
  }

  // Stores the statistics of one term, and returns the place of the next term's sums.
  template <class Loss>
  static const T* store(const TermPlace& place, const T* sums, double* out) {
    out += place.statistics;
    for (int k = 0; k < Loss::kMaxima; ++k) *out++ = 0.0;
    for (int k = 0; k < Loss::kSums; ++k) *out++ = static_cast<double>(*sums++);
    return sums;
  }

  static void add_value(T value, double* values) {
    for (size_t i = 0; i < sizeof...(Losses); ++i) values[i] += kIsElement[i] ? static_cast<double>(value) : 0.0;
  }

  template <class F>
  static void with_targets(const Tile<T>& tile, F f) {
    if (tile.targets == Targets::kSoft) return f(TileKind<Targets::kSoft, false>());
    if (tile.targets == Targets::kHard) return f(TileKind<Targets::kHard, false>());
    f(TileKind<Targets::kNegative, false>());
  }

  template <Targets kTargets>
  static void sums_of(TileKind<kTargets, false>, const Terms& all, const Tile<T>& tile, T* powers,
                      Array<T, Groups::kSums>& total) {
    const Groups groups = all.groups;
    alignas(64) T own[kBlock];
    for (int begin = 0; begin < tile.size; begin += kBlock) {
      const int size = begin + kBlock < tile.size ? kBlock : tile.size - begin;
      T* const power = powers ? powers + begin : own;
      make_powers(tile.s + begin, size, power);
      const Columns<T> x(tile, begin, power);
      T a = T(0), b = T(0), c = T(0), d = T(0), e = T(0), f = T(0);
#pragma omp simd reduction(+ : a, b, c, d, e, f)
      for (int j = 0; j < size; ++j) add_one<kTargets>(groups, x, j, a, b, c, d, e, f);
      const T run[kMost] = {a, b, c, d, e, f};
      for (int k = 0; k < Groups::kSums; ++k) total[k] += run[k];
    }
  }

  template <Targets kTargets>
  static void form_as(TileKind<kTargets, false>, const Terms& all, const Tile<T>& tile, const T* powers, T& value,
                      T* g) {
    const Terms terms = all;
    alignas(64) T own[kBlock];
    ReadyParts<T> parts;
    for (int begin = 0; begin < tile.size; begin += kBlock) {
      const int size = begin + kBlock < tile.size ? kBlock : tile.size - begin;
      if (!powers) make_powers(tile.s + begin, size, own);
      // The first loop below may overwrite the stored powers, which the second loop still reads.
      constexpr bool kCopied = takes_power<Elements>();
      if (kCopied && powers) memcpy(own, powers + begin, sizeof(T) * static_cast<size_t>(size));
      const T* const power = powers && !kCopied ? powers + begin : own;
      make_ready<kLogistic>(power, size, parts);
      const Columns<T> x(tile, begin, power, parts);
      T* const block = g + begin;
      // One loop for both needs more constants than there are registers.
#pragma omp simd
      for (int j = 0; j < size; ++j) block[j] = group_gradient<kTargets>(terms, x, j);
      if constexpr (kAnyElements) add_elements<kTargets>(terms, x, size, block, value);
    }
  }

  template <Targets kTargets>
  static void values_of(TileKind<kTargets, false>, const Terms& terms, const Tile<T>& tile, T& value) {
    if constexpr (kAnyElements) {
      alignas(64) T power[kBlock], unused[kBlock] = {};
      ReadyParts<T> parts;
      for (int begin = 0; begin < tile.size; begin += kBlock) {
        const int size = begin + kBlock < tile.size ? kBlock : tile.size - begin;
        make_powers(tile.s + begin, size, power);
        make_ready<kLogistic>(power, size, parts);
        add_elements<kTargets>(terms, Columns<T>(tile, begin, power, parts), size, unused, value);
      }
    }
  }

  template <Targets kTargets>
  static void add_elements(const Terms& terms, const Columns<T>& x, int size, T* g, T& value) {
    with_variant(terms.elements, [&](auto variant) {
      add_elements_as<kTargets, variant>(terms.elements, terms.factor, x, size, g, value);
    });
  }

  // This is not inlined, so that values with and without gradients are equal to the last bit.
  template <Targets kTargets, int kVariant>
  static __attribute__((noinline)) void add_elements_as(const Elements& loss, T factor, const Columns<T>& columns,
                                                        int size, T* g, T& value) {
    // These are copies, which cannot overlap g. Without them the loop is not vectorised.
    const Elements elements = loss;
    const Columns<T> x = columns;
    T sum = T(0);
#pragma omp simd reduction(+ : sum)
    for (int j = 0; j < size; ++j) add_element<kTargets, kVariant>(elements, factor, x, j, g, sum);
    value += sum;
  }

  template <Targets kTargets>
  static MLLOSS_HD void add_one(const Groups& groups, const Columns<T>& x, int j, T& a, T& b, T& c, T& d, T& e, T& f) {
    const auto v = groups.first_sums(powered_element<kTargets, false>(x, j, x.power[j]));
    a += v[0];
    if constexpr (Groups::kSums > 1) b += v[1];
    if constexpr (Groups::kSums > 2) c += v[2];
    if constexpr (Groups::kSums > 3) d += v[3];
    if constexpr (Groups::kSums > 4) e += v[4];
    if constexpr (Groups::kSums > 5) f += v[5];
  }

  template <Targets kTargets>
  static MLLOSS_HD T group_gradient(const Terms& terms, const Columns<T>& x, int j) {
    return terms.groups.gradient_at_zero_maxima(ready_element<kTargets, false, kLogistic>(x, j), terms.c);
  }

  template <Targets kTargets, int kVariant>
  static MLLOSS_HD void add_element(const Elements& loss, T factor, const Columns<T>& x, int j, T* g, T& sum) {
    auto e = ready_element<kTargets, false, kLogistic>(x, j);
    e.parameter = x.parameters[j];
    const ValueAndGradient<T> r = evaluated<kVariant>(loss, e);
    g[j] += r.gradient * factor;
    sum += r.value;
  }
};

}  // namespace MLLOSS_ISA
}  // namespace mlloss
