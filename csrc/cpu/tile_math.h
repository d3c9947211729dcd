// One functor over one tile: every loop that must vectorise. It knows nothing of rows, calls and outputs.
#pragma once

#include "tile.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

// Elements that are added up before the sum goes a level up: short chains, for many equal terms round
// to the same side.
constexpr int kRun = 512;

template <class T>
double sum_of(const T* x, int size) {
  double sum = 0.0;
  for (int begin = 0; begin < size; begin += kRun) {
    const int end = begin + kRun < size ? begin + kRun : size;
    T run = T(0);
#pragma omp simd reduction(+ : run)
    for (int j = begin; j < end; ++j) run += x[j];
    sum += static_cast<double>(run);
  }
  return sum;
}

template <Targets kTargets, bool kWeighted>
struct TileKind {};

// Calls f with the tile's kind as a type, so that what is constant in a tile is constant to the compiler.
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

// Elements whose logistic parts are formed ahead of the loop that takes them, where a logarithm is among these: chains
// of operations short enough for a processor to overlap several, in blocks short enough that it overlaps their stores.
constexpr int kBlock = 128;

template <class T>
struct ReadyParts {
  alignas(64) T sigmoid[kBlock];
  alignas(64) T sigmoid_negated[kBlock];
  alignas(64) T l[kBlock];
};

// Functions, and not inlined: every loss has their loops otherwise, and compilers take minutes.
template <class T>
__attribute__((noinline)) void make_powers(const T* s, int size, T* power) {
#pragma omp simd
  for (int j = 0; j < size; ++j) power[j] = logistic_power(s[j]);
}

template <LogisticNeed kNeed, class T>
__attribute__((noinline)) void make_ready(const T* power, int size, ReadyParts<T>& parts) {
  T *p = parts.sigmoid, *q = parts.sigmoid_negated, *l = parts.l;
#pragma omp simd
  for (int j = 0; j < size; ++j) {
    p[j] = sigmoids_from(power[j]).sigmoid;
    q[j] = sigmoids_from(power[j]).sigmoid_negated;
  }
  if constexpr (kNeed == LogisticNeed::kLogarithm) {
#pragma omp simd
    for (int j = 0; j < size; ++j) l[j] = minus_log_of_rest(p[j] < q[j] ? p[j] : q[j]);
  }
}

// What a loop reads of a block of a tile: pointers that a compiler need not load again after each store.
template <class T>
struct Columns {
  const T *s, *y, *w, *parameters, *power, *sigmoid, *sigmoid_negated, *l;

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

// From e^s alone.
template <Targets kTargets, bool kWeighted, class T>
MLLOSS_HD ReadyElement<T, kTargets> powered_element(const Columns<T>& x, int j, T power) {
  return {plain_element<kTargets, kWeighted>(x, j), sigmoids_from(power), power};
}

template <Targets kTargets, bool kWeighted, LogisticNeed kNeed, class T>
MLLOSS_HD ReadyElement<T, kTargets> ready_element(const Columns<T>& x, int j) {
  const T l = kNeed == LogisticNeed::kLogarithm ? x.l[j] : T(0);
  return {plain_element<kTargets, kWeighted>(x, j), {x.sigmoid[j], x.sigmoid_negated[j], l}, x.power[j]};
}

// As a functor takes it that is alone.
template <Targets kTargets, bool kWeighted, LogisticNeed kNeed, class T>
MLLOSS_HD auto element(const Columns<T>& x, int j) {
  if constexpr (kNeed == LogisticNeed::kNothing) {
    return plain_element<kTargets, kWeighted>(x, j);
  } else if constexpr (kNeed == LogisticNeed::kSigmoid) {
    return powered_element<kTargets, kWeighted>(x, j, logistic_power(x.s[j]));
  } else {
    return ready_element<kTargets, kWeighted, kNeed>(x, j);
  }
}

// f(columns, begin, size) for each block of a tile; whole blocks have a size that is constant to the compiler.
template <LogisticNeed kNeed, class T, class F>
MLLOSS_HD void for_blocks(const Tile<T>& tile, F f) {
  constexpr bool kReady = kNeed == LogisticNeed::kLogarithm;
  constexpr int kSize = kReady ? kBlock : kRun;
  alignas(64) T powers[kBlock];
  ReadyParts<T> parts;
  for (int begin = 0; begin < tile.size; begin += kSize) {
    const int size = begin + kSize < tile.size ? kSize : tile.size - begin;
    if constexpr (kReady) {
      make_powers(tile.s + begin, size, powers);
      make_ready<kNeed>(powers, size, parts);
      f(Columns<T>(tile, begin, powers, parts), begin, size);
    } else {
      f(Columns<T>(tile, begin), begin, size);
    }
  }
}

template <template <class> class LossTemplate, class T>
class TileMath {
 public:
  using Loss = LossTemplate<T>;
  // Statistics of whole groups are kept in double: it costs nothing, a tile adds up in T.
  using Wide = LossTemplate<double>;
  using WideStatistics = StatisticsOf<Wide, double>;
  using Coefficients = Array<T, Loss::kCoefficients>;

  explicit TileMath(const double* parameters) : parameters_(parameters) {}

  // ---- element-wise losses -------------------------------------------------------------------

  // Values, and gradients times f; null: not wanted. The gradient may overwrite the logits it is formed from.
  void evaluate(const Tile<T>& tile, T f, T* values, T* g) const {
    if constexpr (Loss::kScope == Scope::kElement) {
      with_kind(tile, [&](auto kind) {
        if (!values) {
          evaluate_as<false, true>(kind, tile, f, values, g);
        } else if (g) {
          evaluate_as<true, true>(kind, tile, f, values, g);
        } else {
          evaluate_as<true, false>(kind, tile, f, values, g);
        }
      });
    }
  }

  // ---- group losses --------------------------------------------------------------------------

  // Sums with the maxima at 0; only a tile that overflows pays for its maxima.
  WideStatistics statistics(const Tile<T>& tile) const {
    StatisticsOf<Loss, T> stats{};
    with_kind(tile, [&](auto kind) {
      stats.sums = sums(kind, tile, stats.maxima);
      if (Loss(parameters_).unsafe(stats.sums)) {
        stats.maxima = identity<Loss, T>().maxima;
        maxima(kind, tile, stats.maxima);
        stats.sums = sums(kind, tile, stats.maxima);
      } else {
        stats.maxima = Loss::template first_maxima<Loss, T>(stats.sums);
      }
    });
    WideStatistics wide;
    for (int k = 0; k < Loss::kMaxima; ++k) wide.maxima[k] = static_cast<double>(stats.maxima[k]);
    for (int k = 0; k < Loss::kSums; ++k) wide.sums[k] = static_cast<double>(stats.sums[k]);
    return wide;
  }

  // Late sums, from the statistics of the tile's row. Tiles without positives have none.
  void add_late(const Tile<T>& tile, const WideStatistics& stats, LateSums<Wide, double>& into) const {
    if (tile.targets == Targets::kNegative) return;
    const auto wide = Wide::settle(stats);
    decltype(Loss::settle(StatisticsOf<Loss, T>{})) settled;
    for (size_t k = 0; k < sizeof(wide) / sizeof(double); ++k) settled.v[k] = static_cast<T>(wide.v[k]);
    with_kind(tile, [&](auto kind) { add_late_of(kind, tile, settled, into); });
  }

  // Each element's sums, to those of its column.
  void add_columns(const Tile<T>& tile, double (*sums)[kTile]) const {
    with_kind(tile, [&](auto kind) { add_columns_of(kind, tile, sums); });
  }

  // From coefficients that are scaled.
  void gradient(const Tile<T>& tile, Coefficients c, T* g) const {
    with_kind(tile, [&](auto kind) { gradient_of(kind, tile, c, g); });
  }

  // Times f, from coefficients of each column, `stride` apart.
  void column_gradient(const Tile<T>& tile, const T* coefficients, int64_t stride, T f, T* g) const {
    with_kind(tile, [&](auto kind) { column_gradient_of(kind, tile, coefficients, stride, f, g); });
  }

 private:
  const double* const parameters_;

  template <bool kValues, bool kGradient, Targets kTargets, bool kWeighted>
  void evaluate_as(TileKind<kTargets, kWeighted>, const Tile<T>& tile, T f, T* values, T* g) const {
    const Loss loss(parameters_);
    for_blocks<Loss::kLogistic>(tile, [&](Columns<T> x, int begin, int size) __attribute__((always_inline)) {
      T *const block_values = values + begin, *const block_g = g + begin;
#pragma omp simd
      for (int j = 0; j < size; ++j) {
        evaluate_one<kValues, kGradient, kTargets, kWeighted>(loss, x, j, f, block_values, block_g);
      }
    });
  }

  template <Targets kTargets, bool kWeighted, class M>
  auto sums(TileKind<kTargets, kWeighted>, const Tile<T>& tile, M maxima) const {
    static_assert(Loss::kSums <= 4, "a reduction variable for each sum");
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

  template <Targets kTargets, bool kWeighted, class S>
  void add_late_of(TileKind<kTargets, kWeighted>, const Tile<T>& tile, S settled, LateSums<Wide, double>& into) const {
    static_assert(Loss::kLateSums <= 2, "a reduction variable for each sum");
    const Loss loss(parameters_);
    for_blocks<Loss::kLogistic>(tile, [&](Columns<T> x, int, int size) __attribute__((always_inline)) {
      T a = T(0), b = T(0);
#pragma omp simd reduction(+ : a, b)
      for (int j = 0; j < size; ++j) add_late_one<kTargets, kWeighted>(loss, settled, x, j, a, b);
      const T run[2] = {a, b};
      for (int k = 0; k < Loss::kLateSums; ++k) into[k] += static_cast<double>(run[k]);
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
  // The bodies of the loops above. They are functions because GCC keeps a struct that is declared in
  // the body of an `omp simd` loop in memory, and then does not vectorise.

  template <bool kValues, bool kGradient, Targets kTargets, bool kWeighted>
  static MLLOSS_HD void evaluate_one(const Loss& loss, const Columns<T>& x, int j, T f, T* values, T* g) {
    auto e = element<kTargets, kWeighted, Loss::kLogistic>(x, j);
    if constexpr (Loss::kLabelParameter) e.parameter = x.parameters[j];
    const ValueAndGradient<T> r = loss.evaluate(e);
    if (kValues) values[j] = r.value * e.w;
    if (kGradient) g[j] = r.gradient * (e.w * f);
  }

  template <Targets kTargets, bool kWeighted, class M>
  static MLLOSS_HD void add_one(const Loss& loss, const M& maxima, const Columns<T>& x, int j, T& a, T& b, T& c, T& d) {
    const auto v = loss.sums(element<kTargets, kWeighted, Loss::kLogistic>(x, j), maxima);
    a += v[0];
    if constexpr (Loss::kSums > 1) b += v[1];
    if constexpr (Loss::kSums > 2) c += v[2];
    if constexpr (Loss::kSums > 3) d += v[3];
  }

  template <Targets kTargets, bool kWeighted, class S>
  static MLLOSS_HD void add_late_one(const Loss& loss, const S& settled, const Columns<T>& x, int j, T& a, T& b) {
    const auto v = loss.late(element<kTargets, kWeighted, Loss::kLogistic>(x, j), settled);
    a += v[0];
    if constexpr (Loss::kLateSums > 1) b += v[1];
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

  template <Targets kTargets, bool kWeighted>
  static MLLOSS_HD T gradient_one(const Loss& loss, const Columns<T>& x, int j, const Coefficients& c) {
    return loss.gradient(element<kTargets, kWeighted, Loss::kLogistic>(x, j), c);
  }
};

}  // namespace MLLOSS_ISA
}  // namespace mlloss
