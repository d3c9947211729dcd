// One functor over one tile: all loops that must vectorise. No code here depends on rows, calls or outputs.
#pragma once

#include "tile.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

// Returns the sum of at most kTile numbers. Many equal terms in the compute type round to the same side, so a partial
// sum has few terms, and the last sums are taken in double. There are four vectors of partial sums, because an addition
// takes about four cycles. The order of the additions is the same on all instruction sets.
template <class T>
__attribute__((noinline)) double sum_of(const T* x, int size) {
  constexpr int kVector = 16;
  T a[kVector] = {}, b[kVector] = {}, c[kVector] = {}, d[kVector] = {};
  int begin = 0;
  for (; begin + 4 * kVector <= size; begin += 4 * kVector) {
    for (int k = 0; k < kVector; ++k) a[k] += x[begin + k];
    for (int k = 0; k < kVector; ++k) b[k] += x[begin + kVector + k];
    for (int k = 0; k < kVector; ++k) c[k] += x[begin + 2 * kVector + k];
    for (int k = 0; k < kVector; ++k) d[k] += x[begin + 3 * kVector + k];
  }
  for (int k = 0; begin + k < size; ++k) a[k % kVector] += x[begin + k];
  double sum = 0.0;
  for (int k = 0; k < kVector; ++k) sum += static_cast<double>((a[k] + b[k]) + (c[k] + d[k]));
  return sum;
}

template <Targets kTargets, bool kWeighted>
struct TileKind {};

// Calls f with the kind of the tile as a type, so that properties of a tile are constants for the compiler.
template <class T, class F>
MLLOSS_HD void with_kind(const Tile<T>& tile, F f) {
  if (tile.targets == Targets::kSoft) {
    tile.weighted ? f(TileKind<Targets::kSoft, true>()) : f(TileKind<Targets::kSoft, false>());
  } else if (tile.targets == Targets::kHard) {
    tile.weighted ? f(TileKind<Targets::kHard, true>()) : f(TileKind<Targets::kHard, false>());
  } else {
    tile.weighted ? f(TileKind<Targets::kNegative, true>()) : f(TileKind<Targets::kNegative, false>());
  }
}

// The number of elements for which the parts of the logistic function are computed before the loop that reads them. The
// chains of operations are then short enough for a processor to overlap several, and the block fits a first-level
// cache. A block is also the run of a sum in T: with few lanes it is short, so that each lane adds few equal terms.
#ifdef __AVX__
constexpr int kBlock = 512;
#else
constexpr int kBlock = 128;
#endif

template <class T>
struct ReadyParts {
  alignas(64) T sigmoid[kBlock];
  alignas(64) T sigmoid_negated[kBlock];
  alignas(64) T l[kBlock];
};

// These functions are not inlined. Otherwise every loss has a copy of their loops, and compilation takes minutes.
template <class T>
__attribute__((noinline)) void make_powers(const T* s, int size, T* power) {
#pragma omp simd
  for (int j = 0; j < size; ++j) power[j] = logistic_power(s[j]);
}

template <class T>
__attribute__((noinline)) void make_tails(const T* s, int size, T* tail) {
#pragma omp simd
  for (int j = 0; j < size; ++j) tail[j] = tail_power(s[j]);
}

template <class T>
__attribute__((noinline)) void make_negated_powers(const T* s, int size, T* power) {
#pragma omp simd
  for (int j = 0; j < size; ++j) power[j] = negated_power(s[j]);
}

template <LogisticNeed kNeed, class T>
__attribute__((noinline)) void make_ready(const T* power, int size, ReadyParts<T>& parts) {
  T *p = parts.sigmoid, *q = parts.sigmoid_negated, *l = parts.l;
#pragma omp simd
  for (int j = 0; j < size; ++j) {
    const LogisticParts<T> own = sigmoids_from(power[j]);
    p[j] = own.sigmoid;
    q[j] = own.sigmoid_negated;
    if constexpr (kNeed == LogisticNeed::kLogarithm) {
      l[j] = minus_log_of_rest(smaller(own.sigmoid, own.sigmoid_negated));
    }
  }
}

// The pointers that a loop over a block of a tile reads. A compiler need not load them again after each store.
template <class T>
struct Columns {
  const T *s, *y, *w, *parameters, *power, *sigmoid, *sigmoid_negated, *l;
  const T *tail = nullptr, *other_power = nullptr;

  Columns(const Tile<T>& tile, int begin, const T* powers = nullptr)
      : s(tile.s + begin),
        y(tile.y + begin),
        w(tile.w + begin),
        parameters(tile.parameters + begin),
        power(powers),
        sigmoid(nullptr),
        sigmoid_negated(nullptr),
        l(nullptr) {}

  Columns(const Tile<T>& tile, int begin, const T* powers, const ReadyParts<T>& parts) : Columns(tile, begin, powers) {
    sigmoid = parts.sigmoid;
    sigmoid_negated = parts.sigmoid_negated;
    l = parts.l;
  }
};

template <Targets kTargets, bool kWeighted, class T>
MLLOSS_HD Element<T, kTargets> plain_element(const Columns<T>& x, int j) {
  return {x.s[j], kTargets == Targets::kNegative ? T(0) : x.y[j], kWeighted ? x.w[j] : T(1)};
}

// Returns an element that has e^s and the sigmoids computed from it.
template <Targets kTargets, bool kWeighted, class T>
MLLOSS_HD ReadyElement<T, kTargets> powered_element(const Columns<T>& x, int j, T power) {
  return {plain_element<kTargets, kWeighted>(x, j), sigmoids_from(power), power};
}

template <Targets kTargets, bool kWeighted, LogisticNeed kNeed, class T>
MLLOSS_HD ReadyElement<T, kTargets> ready_element(const Columns<T>& x, int j) {
  const T l = kNeed == LogisticNeed::kLogarithm ? x.l[j] : T(0);
  return {plain_element<kTargets, kWeighted>(x, j), {x.sigmoid[j], x.sigmoid_negated[j], l}, x.power[j]};
}

template <Targets kTargets, bool kWeighted, class T>
MLLOSS_HD TailElement<T, kTargets> tail_element(const Columns<T>& x, int j) {
  return {plain_element<kTargets, kWeighted>(x, j), x.tail[j]};
}

template <Targets kTargets, bool kWeighted, class T>
MLLOSS_HD TwoPowersElement<T, kTargets> two_powers_element(const Columns<T>& x, int j) {
  return {plain_element<kTargets, kWeighted>(x, j), {{x.power[j], x.other_power[j]}}};
}

// Returns an element in the form that a single functor with this need reads.
template <Targets kTargets, bool kWeighted, LogisticNeed kNeed, class T>
MLLOSS_HD auto element(const Columns<T>& x, int j) {
  if constexpr (kNeed == LogisticNeed::kNothing) {
    return plain_element<kTargets, kWeighted>(x, j);
  } else if constexpr (kNeed == LogisticNeed::kSigmoid) {
    return powered_element<kTargets, kWeighted>(x, j, logistic_power(x.s[j]));
  } else if constexpr (kNeed == LogisticNeed::kPower) {
    return powered_element<kTargets, kWeighted>(x, j, x.power[j]);
  } else if constexpr (kNeed == LogisticNeed::kTail) {
    return tail_element<kTargets, kWeighted>(x, j);
  } else if constexpr (kNeed == LogisticNeed::kTwoPowers) {
    return two_powers_element<kTargets, kWeighted>(x, j);
  } else {
    return ready_element<kTargets, kWeighted, kNeed>(x, j);
  }
}

// Calls f(columns, begin, size) for each block of a tile. The size of a full block is a constant for the compiler.
template <LogisticNeed kNeed, int kSize = kBlock, class T, class F>
MLLOSS_HD void for_blocks(const Tile<T>& tile, F f) {
  constexpr bool kReady = kNeed == LogisticNeed::kLogarithm;
  alignas(64) T powers[kSize], others[kSize];
  ReadyParts<T> parts;
  for (int begin = 0; begin < tile.size; begin += kSize) {
    const int size = begin + kSize < tile.size ? kSize : tile.size - begin;
    if constexpr (kReady) {
      make_powers(tile.s + begin, size, powers);
      make_ready<kNeed>(powers, size, parts);
      f(Columns<T>(tile, begin, powers, parts), begin, size);
    } else if constexpr (kNeed == LogisticNeed::kTail) {
      Columns<T> x(tile, begin);
      make_tails(tile.s + begin, size, powers);
      x.tail = powers;
      f(x, begin, size);
    } else if constexpr (kNeed == LogisticNeed::kTwoPowers) {
      Columns<T> x(tile, begin, powers);
      make_negated_powers(tile.s + begin, size, powers);
      make_negated_powers(tile.y + begin, size, others);
      x.other_power = others;
      f(x, begin, size);
    } else if constexpr (kNeed == LogisticNeed::kPower) {
      make_powers(tile.s + begin, size, powers);
      f(Columns<T>(tile, begin, powers), begin, size);
    } else {
      f(Columns<T>(tile, begin), begin, size);
    }
  }
}

// Terms 1 + x are multiplied in kLanes lanes, kShared terms in each, and each product takes one logarithm.
constexpr int kLanes = 128, kShared = kTile / kLanes;
static_assert(kShared <= 16, "a product of kShared terms 1 + x <= 2 must stay below 2^16");

template <template <class> class LossTemplate, class T>
class TileMath {
 public:
  using Loss = LossTemplate<T>;
  // Statistics of whole groups are double. This is little work, because a tile is summed in T.
  using Wide = LossTemplate<double>;
  using WideStatistics = StatisticsOf<Wide, double>;
  using Coefficients = Array<T, Loss::kCoefficients>;

  explicit TileMath(const double* parameters) : parameters_(parameters) {}

  // ---- element-wise losses -------------------------------------------------------------------

  // Forms values, and gradients times f. A null pointer means that the result is not needed. A gradient may overwrite
  // its logits.
  void evaluate(const Tile<T>& tile, T f, T* values, T* g) const {
    if constexpr (Loss::kScope == Scope::kElement) {
      with_kind(tile, [&](auto kind) {
        with_variant(Loss(parameters_), [&](auto variant) {
          if (!values) {
            evaluate_as<false, true, variant>(kind, tile, f, values, g);
          } else if (g) {
            evaluate_as<true, true, variant>(kind, tile, f, values, g);
          } else {
            evaluate_as<true, false, variant>(kind, tile, f, values, g);
          }
        });
      });
    }
  }

  // Forms the gradients of both logits times f, which do not overwrite logits, and values unless that pointer is null.
  void evaluate_both(const Tile<T>& tile, T f, T* values, T* g, T* other) const {
    if (values) {
      tile.weighted ? both_as<true, true>(tile, f, values, g, other) : both_as<true, false>(tile, f, values, g, other);
    } else {
      tile.weighted ? both_as<false, true>(tile, f, g, g, other) : both_as<false, false>(tile, f, g, g, other);
    }
  }

  // Returns the sum of the values, and forms gradients as above unless `g` is null.
  double sum_values(const Tile<T>& tile, T f, T* g) const {
    if constexpr (Loss::kSeparates) {
      const bool separates = tile.targets == Targets::kNegative || Loss(parameters_).separates(tile.parametrised);
      if (separates && !tile.weighted) return separated_sum(tile, f, g);
    }
    alignas(64) T values[kTile];
    evaluate(tile, f, values, g);
    return sum_of(values, tile.size);
  }

  // ---- group losses --------------------------------------------------------------------------

  // Returns sums with the maxima at 0. Only a tile whose sums overflow or vanish is visited again for its maxima.
  // `kept`, unless null, receives the kept number of each element.
  WideStatistics statistics(const Tile<T>& tile, T* kept) const {
    StatisticsOf<Loss, T> stats{};
    with_kind(tile, [&](auto kind) {
      if constexpr (Loss::kKeeps) {
        with_kept(kind, [&](auto slopes) {
          stats.sums = kept ? first_sums<true, slopes>(kind, tile, kept) : first_sums<false, slopes>(kind, tile, kept);
        });
      } else {
        stats.sums = sums(kind, tile, stats.maxima);
      }
      if (Loss(parameters_).needs_max_shift(stats.sums)) {
        stats.maxima = identity<Loss, T>().maxima;
        maxima(kind, tile, stats.maxima);
        stats.sums = sums(kind, tile, stats.maxima);
      } else {
        stats.maxima = Loss::first_maxima(stats.sums);
      }
    });
    WideStatistics wide;
    for (int k = 0; k < Loss::kMaxima; ++k) wide.maxima[k] = static_cast<double>(stats.maxima[k]);
    for (int k = 0; k < Loss::kSums; ++k) wide.sums[k] = static_cast<double>(stats.sums[k]);
    return wide;
  }

  // Adds second-pass sums, from the statistics of the tile's row. Tiles without positives have none.
  void add_second_pass(const Tile<T>& tile, const WideStatistics& stats, SecondPassSums<Wide, double>& into) const {
    if (tile.targets == Targets::kNegative) return;
    const auto wide = Wide::second_pass_input(stats);
    decltype(Loss::second_pass_input(StatisticsOf<Loss, T>{})) input;
    for (size_t k = 0; k < sizeof(wide) / sizeof(double); ++k) input.v[k] = static_cast<T>(wide.v[k]);
    with_kind(tile, [&](auto kind) { add_second_pass_of(kind, tile, input, into); });
  }

  // Adds each element's sums to those of its column.
  void add_columns(const Tile<T>& tile, double (*sums)[kTile]) const {
    with_kind(tile, [&](auto kind) { add_columns_of(kind, tile, sums); });
  }

  // Forms gradients from scaled coefficients, and from kept numbers unless null. `g` may be `kept`.
  void gradient(const Tile<T>& tile, Coefficients c, const T* kept, T* g) const {
    with_kind(tile, [&](auto kind) {
      if constexpr (Loss::kKeeps) {
        // The result is equal to the last bit, with or without kept numbers.
        if (Loss::zero_maxima(c)) {
          return with_kept(kind, [&](auto slopes) {
            kept ? kept_gradient_of<slopes>(kind, tile, c, kept, g) : again_of<slopes>(kind, tile, c, g);
          });
        }
      }
      gradient_of(kind, tile, c, g);
    });
  }

  // Forms gradients times f, from the coefficients of each column, which are `stride` apart.
  void column_gradient(const Tile<T>& tile, const T* coefficients, int64_t stride, T f, T* g) const {
    with_kind(tile, [&](auto kind) { column_gradient_of(kind, tile, coefficients, stride, f, g); });
  }

 private:
  const double* const parameters_;

  template <bool kValues, bool kGradient, int kVariant, Targets kTargets, bool kWeighted>
  void evaluate_as(TileKind<kTargets, kWeighted>, const Tile<T>& tile, T f, T* values, T* g) const {
    const Loss loss(parameters_);
    for_blocks<need_of<kVariant, Loss>()>(tile, [&](Columns<T> x, int begin, int size) __attribute__((always_inline)) {
      T *const block_values = values + begin, *const block_g = g + begin;
#pragma omp simd
      for (int j = 0; j < size; ++j) {
        evaluate_one<kValues, kGradient, kVariant, kTargets, kWeighted>(loss, x, j, f, block_values, block_g);
      }
    });
  }

  template <bool kValues, bool kWeighted>
  void both_as(const Tile<T>& tile, T f, T* values, T* g, T* other) const {
    const Loss loss(parameters_);
    for_blocks<Loss::kLogistic>(tile, [&](Columns<T> x, int begin, int size) __attribute__((always_inline)) {
      T *const block_values = values + begin, *const block_g = g + begin, *const block_other = other + begin;
#pragma omp simd
      for (int j = 0; j < size; ++j) {
        both_of_one<kValues, kWeighted>(loss, x, j, f, block_values, block_g, block_other);
      }
    });
  }

  double separated_sum(const Tile<T>& tile, T f, T* g) const {
    double sum = 0.0;
    with_kind(tile, [&](auto kind) {
      sum = g ? separated_sum_as<true>(kind, tile, f, g) : separated_sum_as<false>(kind, tile, f, g);
    });
    return sum;
  }

  // Returns the logarithms of the lanes' products of 1 + x plus the sums of the rests.
  template <bool kGradient, Targets kTargets, bool kWeighted>
  double separated_sum_as(TileKind<kTargets, kWeighted>, const Tile<T>& tile, T f, T* g) const {
    const Loss loss(parameters_);
    alignas(64) T products[kLanes] = {}, rests[kLanes] = {};
    for_blocks<LogisticNeed::kTail, kLanes>(
        tile, [&](Columns<T> x, int begin, int size) __attribute__((always_inline)) {
          T* const block = g + begin;
#pragma omp simd
          for (int k = 0; k < size; ++k) separate_one<kGradient, kTargets>(loss, x, k, f, products, rests, block);
        });
#pragma omp simd
    for (int k = 0; k < kLanes; ++k) rests[k] += logarithm_of_one_plus(products[k]);
    double sum = 0.0;  // not T: equal lanes would all round to the same side
#pragma omp simd reduction(+ : sum)
    for (int k = 0; k < kLanes; ++k) sum += static_cast<double>(rests[k]);
    return sum;
  }

  template <Targets kTargets, bool kWeighted, class M>
  auto sums(TileKind<kTargets, kWeighted>, const Tile<T>& tile, M maxima) const {
    static_assert(Loss::kSums <= 4, "the loop has one reduction variable for each sum");
    const Loss loss(parameters_);
    Array<T, Loss::kSums> total{};
    for_blocks<Loss::kLogistic>(tile, [&](Columns<T> x, int, int size) __attribute__((always_inline)) {
      T a = T(0), b = T(0), c = T(0), d = T(0);
#pragma omp simd reduction(+ : a, b, c, d)
      for (int j = 0; j < size; ++j) add_one<kTargets, kWeighted>(loss, maxima, x, j, a, b, c, d);
      const T run[4] = {a, b, c, d};
      for (int k = 0; k < Loss::kSums; ++k) total[k] += run[k];
    });
    return total;
  }

  // Calls f with a constant: true if the gradient of a tile of this kind follows from slopes, which are then kept in
  // place of the functor's own numbers.
  template <Targets kTargets, bool kWeighted, class F>
  void with_kept(TileKind<kTargets, kWeighted>, F f) const {
    if constexpr (Loss::kSlopes && kTargets != Targets::kSoft) {
      if (Loss(parameters_).slopes_serve()) return f(std::true_type());
    }
    f(std::false_type());
  }

  template <bool kStores, bool kSlopes, Targets kTargets, bool kWeighted>
  auto first_sums(TileKind<kTargets, kWeighted>, const Tile<T>& tile, T* kept) const {
    const Loss loss(parameters_);
    Array<T, Loss::kSums> total{};
    for_blocks<LogisticNeed::kNothing>(tile, [&](Columns<T> x, int begin, int size) __attribute__((always_inline)) {
      T a = T(0), b = T(0), c = T(0), d = T(0);
      T* const block = kept + begin;
#pragma omp simd reduction(+ : a, b, c, d)
      for (int j = 0; j < size; ++j) add_first<kStores, kSlopes, kTargets, kWeighted>(loss, x, j, block, a, b, c, d);
      const T run[4] = {a, b, c, d};
      for (int k = 0; k < Loss::kSums; ++k) total[k] += run[k];
    });
    return total;
  }

  template <Targets kTargets, bool kWeighted, class S>
  void add_second_pass_of(TileKind<kTargets, kWeighted>, const Tile<T>& tile, S input,
                          SecondPassSums<Wide, double>& into) const {
    static_assert(Loss::kSecondPassSums <= 2, "the loop has one reduction variable for each sum");
    const Loss loss(parameters_);
    for_blocks<Loss::kLogistic>(tile, [&](Columns<T> x, int, int size) __attribute__((always_inline)) {
      T a = T(0), b = T(0);
#pragma omp simd reduction(+ : a, b)
      for (int j = 0; j < size; ++j) add_second_pass_one<kTargets, kWeighted>(loss, input, x, j, a, b);
      const T run[2] = {a, b};
      for (int k = 0; k < Loss::kSecondPassSums; ++k) into[k] += static_cast<double>(run[k]);
    });
  }

  template <Targets kTargets, bool kWeighted, class M>
  void maxima(TileKind<kTargets, kWeighted>, const Tile<T>& tile, M& top) const {
    const Loss loss(parameters_);
    for_blocks<LogisticNeed::kNothing>(tile, [&](Columns<T> x, int, int size) {
      for (int j = 0; j < size; ++j) loss.maxima(element<kTargets, kWeighted, LogisticNeed::kNothing>(x, j), top);
    });
  }

  template <Targets kTargets, bool kWeighted>
  void add_columns_of(TileKind<kTargets, kWeighted>, const Tile<T>& tile, double (*sums)[kTile]) const {
    const Loss loss(parameters_);
    const auto none = identity<Loss, T>().maxima;
    for_blocks<Loss::kLogistic>(tile, [&](Columns<T> x, int begin, int size) __attribute__((always_inline)) {
#pragma omp simd
      for (int j = 0; j < size; ++j) add_column<kTargets, kWeighted>(loss, none, x, j, sums, begin + j);
    });
  }

  template <Targets kTargets, bool kWeighted>
  void gradient_of(TileKind<kTargets, kWeighted>, const Tile<T>& tile, Coefficients c, T* g) const {
    const Loss loss(parameters_);
    for_blocks<Loss::kLogistic>(tile, [&](Columns<T> x, int begin, int size) __attribute__((always_inline)) {
      T* const block = g + begin;
#pragma omp simd
      for (int j = 0; j < size; ++j) block[j] = gradient_one<kTargets, kWeighted>(loss, x, j, c);
    });
  }

  template <bool kSlopes, Targets kTargets, bool kWeighted>
  void kept_gradient_of(TileKind<kTargets, kWeighted>, const Tile<T>& tile, Coefficients c, const T* kept, T* g) const {
    const Loss loss(parameters_);
    for_blocks<LogisticNeed::kNothing>(tile, [&](Columns<T> x, int begin, int size) __attribute__((always_inline)) {
      const T* const from = kept + begin;
      T* const block = g + begin;
#pragma omp simd
      for (int j = 0; j < size; ++j) block[j] = kept_one<kSlopes, kTargets, kWeighted>(loss, x, j, from[j], c);
    });
  }

  template <bool kSlopes, Targets kTargets, bool kWeighted>
  void again_of(TileKind<kTargets, kWeighted>, const Tile<T>& tile, Coefficients c, T* g) const {
    const Loss loss(parameters_);
    // The exponential has a loop of its own: one loop for everything needs more constants than there are registers.
    constexpr bool kSigmoid = Loss::kLogistic == LogisticNeed::kSigmoid;
    constexpr LogisticNeed kNeed = kSlopes    ? LogisticNeed::kTail
                                   : kSigmoid ? LogisticNeed::kPower
                                              : LogisticNeed::kNothing;
    for_blocks<kNeed>(tile, [&](Columns<T> x, int begin, int size) __attribute__((always_inline)) {
      T* const block = g + begin;
#pragma omp simd
      for (int j = 0; j < size; ++j) block[j] = again_one<kSlopes, kTargets, kWeighted, kNeed>(loss, x, j, c);
    });
  }

  template <Targets kTargets, bool kWeighted>
  void column_gradient_of(TileKind<kTargets, kWeighted>, const Tile<T>& tile, const T* coefficients, int64_t stride,
                          T f, T* g) const {
    const Loss loss(parameters_);
    for_blocks<Loss::kLogistic>(tile, [&](Columns<T> x, int begin, int size) __attribute__((always_inline)) {
      const T* const own = coefficients + begin;
      T* const block = g + begin;
#pragma omp simd
      for (int j = 0; j < size; ++j) block[j] = f * column_one<kTargets, kWeighted>(loss, x, j, own + j, stride);
    });
  }

  // ---- one element -----------------------------------------------------------------------------
  // The bodies of the loops above. They are functions because GCC keeps a struct that is declared in the body of an
  // `omp simd` loop in memory, and then does not vectorise.

  // The products are stored without their 1: (1 + q) (1 + x) - 1 = q + x + q x loses no small numbers.
  template <bool kGradient, Targets kTargets>
  static MLLOSS_HD void separate_one(const Loss& loss, const Columns<T>& x, int j, T f, T* products, T* rests, T* g) {
    const Separated<T> r = loss.separated(tail_element<kTargets, false>(x, j));
    products[j] += r.x + products[j] * r.x;
    rests[j] += r.rest;
    if (kGradient) g[j] = r.gradient * f;
  }

  template <bool kValues, bool kGradient, int kVariant, Targets kTargets, bool kWeighted>
  static MLLOSS_HD void evaluate_one(const Loss& loss, const Columns<T>& x, int j, T f, T* values, T* g) {
    auto e = element<kTargets, kWeighted, need_of<kVariant, Loss>()>(x, j);
    if constexpr (Loss::kLabelParameter) e.parameter = x.parameters[j];
    const ValueAndGradient<T> r = evaluated<kVariant>(loss, e);
    if (kValues) values[j] = r.value * e.w;
    if (kGradient) g[j] = r.gradient * (e.w * f);
  }

  template <bool kValues, bool kWeighted>
  static MLLOSS_HD void both_of_one(const Loss& loss, const Columns<T>& x, int j, T f, T* values, T* g, T* other) {
    const auto e = element<Targets::kSoft, kWeighted, Loss::kLogistic>(x, j);
    const ValueAndGradients<T> r = loss.evaluate_both(e);
    if (kValues) values[j] = r.value * e.w;
    g[j] = r.gradient * (e.w * f);
    other[j] = r.other * (e.w * f);
  }

  template <Targets kTargets, bool kWeighted, class M>
  static MLLOSS_HD void add_one(const Loss& loss, const M& maxima, const Columns<T>& x, int j, T& a, T& b, T& c, T& d) {
    const auto v = loss.sums(element<kTargets, kWeighted, Loss::kLogistic>(x, j), maxima);
    a += v[0];
    if constexpr (Loss::kSums > 1) b += v[1];
    if constexpr (Loss::kSums > 2) c += v[2];
    if constexpr (Loss::kSums > 3) d += v[3];
  }

  template <bool kSlopes, class E>
  static MLLOSS_HD auto first_of(const Loss& loss, const E& e, T& own) {
    if constexpr (kSlopes) {
      return loss.sums_and_slope(e, own);
    } else {
      return loss.first_sums(e, own);
    }
  }

  template <bool kSlopes, class E>
  static MLLOSS_HD T gradient_from(const Loss& loss, const E& e, T kept, const Coefficients& c) {
    if constexpr (kSlopes) {
      return loss.slope_gradient(e, kept, c);
    } else {
      return loss.kept_gradient(e, kept, c);
    }
  }

  template <bool kStores, bool kSlopes, Targets kTargets, bool kWeighted>
  static MLLOSS_HD void add_first(const Loss& loss, const Columns<T>& x, int j, T* kept, T& a, T& b, T& c, T& d) {
    T own;
    const auto v = first_of<kSlopes>(loss, plain_element<kTargets, kWeighted>(x, j), own);
    if (kStores) kept[j] = own;
    a += v[0];
    if constexpr (Loss::kSums > 1) b += v[1];
    if constexpr (Loss::kSums > 2) c += v[2];
    if constexpr (Loss::kSums > 3) d += v[3];
  }

  template <Targets kTargets, bool kWeighted, class S>
  static MLLOSS_HD void add_second_pass_one(const Loss& loss, const S& input, const Columns<T>& x, int j, T& a, T& b) {
    const auto v = loss.second_pass_sums(element<kTargets, kWeighted, Loss::kLogistic>(x, j), input);
    a += v[0];
    if constexpr (Loss::kSecondPassSums > 1) b += v[1];
  }

  template <Targets kTargets, bool kWeighted, class M>
  static MLLOSS_HD void add_column(const Loss& loss, const M& maxima, const Columns<T>& x, int j, double (*sums)[kTile],
                                   int column) {
    const auto v = loss.sums(element<kTargets, kWeighted, Loss::kLogistic>(x, j), maxima);
    for (int k = 0; k < Loss::kSums; ++k) sums[k][column] += static_cast<double>(v[k]);
  }

  template <Targets kTargets, bool kWeighted>
  static MLLOSS_HD T column_one(const Loss& loss, const Columns<T>& x, int j, const T* coefficients, int64_t stride) {
    Array<T, Loss::kCoefficients> c;
    for (int k = 0; k < Loss::kCoefficients; ++k) c[k] = coefficients[k * stride];
    return loss.gradient(element<kTargets, kWeighted, Loss::kLogistic>(x, j), c);
  }

  template <bool kSlopes, Targets kTargets, bool kWeighted>
  static MLLOSS_HD T kept_one(const Loss& loss, const Columns<T>& x, int j, T kept, const Coefficients& c) {
    return gradient_from<kSlopes>(loss, plain_element<kTargets, kWeighted>(x, j), kept, c);
  }

  template <bool kSlopes, Targets kTargets, bool kWeighted, LogisticNeed kNeed>
  static MLLOSS_HD T again_one(const Loss& loss, const Columns<T>& x, int j, const Coefficients& c) {
    const auto e = element<kTargets, kWeighted, kNeed>(x, j);
    T kept;
    first_of<kSlopes>(loss, e, kept);
    return gradient_from<kSlopes>(loss, e, kept, c);
  }

  template <Targets kTargets, bool kWeighted>
  static MLLOSS_HD T gradient_one(const Loss& loss, const Columns<T>& x, int j, const Coefficients& c) {
    return loss.gradient(element<kTargets, kWeighted, Loss::kLogistic>(x, j), c);
  }
};

}  // namespace MLLOSS_ISA
}  // namespace mlloss
