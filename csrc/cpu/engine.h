// The CPU engine: moves tiles of rows through any functor. It knows no loss.
#pragma once

#include "kernels.h"
#include "tile.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

// Elements that are added up before the sum goes a level up: short chains, for many equal terms round
// to the same side.
constexpr int kRun = 512;

static_assert(kTile == cpu::kLabelsPerUnit, "register.cpp counts units by the tile");

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

template <Targets kTargets, bool kWeighted, class T>
MLLOSS_HD Element<T, kTargets> element(const T* s, const T* y, const T* w, int j) {
  return {s[j], kTargets == Targets::kNegative ? T(0) : y[j], kWeighted ? w[j] : T(1)};
}

template <template <class> class LossTemplate, class T>
class Engine {
  using Loss = LossTemplate<T>;
  using Work = cpu::Work;

 public:
  static void elements(const Work& work, int64_t begin, int64_t end) {
    const Engine engine(work);
    Tile<T> tile;
    alignas(64) T values[kTile], buffer[kTile];
    engine.for_units(begin, end, [&](int64_t unit, int64_t row, int64_t label, int size) {
      engine.reader_.read(row, label, size, tile);
      T* g = engine.gradient_target(row, label, buffer);
      engine.evaluate(tile, engine.folded_factor(row, label), values, g);
      if (work.forward) engine.store_values(unit, row, label, tile, values);
      if (engine.wants_gradient()) engine.finish_gradient(tile, unit, row, label, g);
    });
  }

  static void rows(const Work& work, int64_t begin, int64_t end) {
    const Engine engine(work);
    Tile<T> tile;
    for (int64_t row = begin; row < end; ++row) {
      auto stats = identity<Wide, double>();
      LateSums<Wide, double> late{};
      const int64_t first = row * engine.tiles_, last = first + engine.tiles_;
      engine.for_units(first, last, [&](int64_t, int64_t, int64_t label, int size) {
        engine.reader_.read(row, label, size, tile);
        merge<Wide, double>(stats, engine.tile_statistics(tile));
      });
      if constexpr (Loss::kLateSums > 0) {
        engine.for_units(first, last, [&](int64_t, int64_t, int64_t label, int size) {
          engine.reader_.read(row, label, size, tile);
          engine.add_late(tile, stats, late);
        });
      }
      engine.conclude(row, stats, late);
      if (engine.wants_gradient()) gradient(work, first, last);
    }
  }

  static void statistics(const Work& work, int64_t begin, int64_t end) {
    const Engine engine(work);
    Tile<T> tile;
    engine.for_units(begin, end, [&](int64_t unit, int64_t row, int64_t label, int size) {
      engine.reader_.read(row, label, size, tile);
      const auto stats = engine.tile_statistics(tile);
      double* out = work.unit_statistics + unit * kStatistics;
      for (int k = 0; k < Loss::kMaxima; ++k) out[k] = stats.maxima[k];
      for (int k = 0; k < Loss::kSums; ++k) out[Loss::kMaxima + k] = stats.sums[k];
    });
  }

  // Of rows, whose units' statistics lie there; their late sums are put beside them.
  static void late(const Work& work, int64_t begin, int64_t end) {
    if constexpr (Loss::kLateSums > 0) {
      const Engine engine(work);
      Tile<T> tile;
      auto stats = identity<Wide, double>();
      int64_t merged = -1;
      engine.for_units(begin, end, [&](int64_t unit, int64_t row, int64_t label, int size) {
        if (row != merged) stats = engine.merged_statistics(row * engine.tiles_, engine.tiles_);
        merged = row;
        engine.reader_.read(row, label, size, tile);
        LateSums<Wide, double> sums{};
        engine.add_late(tile, stats, sums);
        double* out = work.unit_statistics + unit * kStatistics + Loss::kMaxima + Loss::kSums;
        for (int k = 0; k < Loss::kLateSums; ++k) out[k] = sums[k];
      });
    }
  }

  static void finish(const Work& work, int64_t begin, int64_t end) {
    const Engine engine(work);
    const int64_t units = work.call->grouping == Grouping::kMicro ? work.call->rows * engine.tiles_ : engine.tiles_;
    for (int64_t group = begin; group < end; ++group) {
      const int64_t first = group * units;
      LateSums<Wide, double> late{};
      for (int64_t unit = first; unit < first + units; ++unit) {
        const double* in = work.unit_statistics + unit * kStatistics + Loss::kMaxima + Loss::kSums;
        for (int k = 0; k < Loss::kLateSums; ++k) late[k] += in[k];
      }
      engine.conclude(group, engine.merged_statistics(first, units), late);
    }
  }

  static void gradient(const Work& work, int64_t begin, int64_t end) {
    const Engine engine(work);
    Tile<T> tile;
    alignas(64) T buffer[kTile];
    engine.for_units(begin, end, [&](int64_t unit, int64_t row, int64_t label, int size) {
      engine.reader_.read(row, label, size, tile);
      T* g = engine.gradient_target(row, label, buffer);
      engine.group_gradient(tile, row, label, engine.folded_factor(row, label), g);
      engine.finish_gradient(tile, unit, row, label, g);
    });
  }

  // A label's group crosses the rows, so a tile of labels is taken down the whole batch.
  static void macro(const Work& work, int64_t begin, int64_t end) {
    if constexpr (Loss::kMaxima == 0) {
      const Engine engine(work);
      Tile<T> tile;
      alignas(64) double sums[Loss::kSums][kTile];
      for (int64_t t = begin; t < end; ++t) {
        const int64_t label = t * kTile;
        const int size = engine.tile_size(t);
        memset(sums, 0, sizeof(sums));
        for (int64_t row = 0; row < work.call->rows; ++row) {
          engine.reader_.read(row, label, size, tile);
          engine.add_columns(tile, sums);
        }
        for (int j = 0; j < size; ++j) {
          StatisticsOf<Wide, double> stats;
          for (int k = 0; k < Loss::kSums; ++k) stats.sums[k] = sums[k][j];
          engine.conclude(label + j, stats, {});
        }
        if (!engine.wants_gradient()) continue;
        for (int64_t row = 0; row < work.call->rows; ++row) {
          gradient(work, row * engine.tiles_ + t, row * engine.tiles_ + t + 1);
        }
      }
    }
  }

  static void label_gradient(const Work& work, int64_t begin, int64_t end) {
    const Engine engine(work);
    Tile<T> tile;
    alignas(64) T g[kTile];
    alignas(64) double sum[kTile];
    for (int64_t t = begin; t < end; ++t) {
      const int64_t label = t * kTile;
      const int size = engine.tile_size(t);
      memset(sum, 0, sizeof(sum));
      for (int64_t row = 0; row < work.call->rows; ++row) {
        engine.reader_.read(row, label, size, tile);
        const T f = engine.factor_at(row, label);
        engine.evaluate(tile, f, nullptr, g);
        engine.group_gradient(tile, row, label, f, g);
        engine.settle(tile, row, label, g);
        for (int j = 0; j < size; ++j) sum[j] += static_cast<double>(g[j]);
      }
      T* out = static_cast<T*>(work.backward->label_gradient) + label;
      for (int j = 0; j < size; ++j) out[j] = static_cast<T>(sum[j]);
    }
  }

  static constexpr int kStatistics = Loss::kMaxima + Loss::kSums + Loss::kLateSums;

 private:
  // Statistics of whole groups are kept in double: it costs nothing, a tile adds up in T.
  using Wide = LossTemplate<double>;

  const Work& work_;
  const Call& call_;
  const Loss loss_;
  const TileReader<T> reader_;
  const int64_t tiles_;

  explicit Engine(const Work& work)
      : work_(work),
        call_(*work.call),
        loss_(work.call->parameters.values),
        reader_(*work.call, Loss::kCompeting, Loss::kRawTargets),
        tiles_((work.call->labels + kTile - 1) / kTile) {}

  int tile_size(int64_t t) const {
    const int64_t left = call_.labels - t * kTile;
    return static_cast<int>(left < kTile ? left : kTile);
  }

  template <class F>
  void for_units(int64_t begin, int64_t end, F f) const {
    if (begin == end) return;
    int64_t row = begin / tiles_, t = begin % tiles_;
    for (int64_t unit = begin; unit < end; ++unit) {
      f(unit, row, t * kTile, tile_size(t));
      if (++t == tiles_) {
        t = 0;
        ++row;
      }
    }
  }

  T sample_weight(int64_t row) const {
    return call_.sample_weight ? static_cast<const T*>(call_.sample_weight)[row] : T(1);
  }

  // What the gradient of a tile is multiplied by, a grad_output for each element apart.
  T factor_at(int64_t row, int64_t label) const {
    double f = call_.factor;
    if (call_.normalizer) f /= static_cast<double>(*static_cast<const T*>(call_.normalizer));
    if (!crosses_rows(call_)) f *= static_cast<double>(sample_weight(row));
    if (const T* grad_output = grad_output_at(row, label)) {
      if (work_.backward->grad_output_label_stride == 0) f *= static_cast<double>(*grad_output);
    }
    return static_cast<T>(f);
  }

  // With logit_scale, unless sums of the gradient without it are wanted.
  T folded_factor(int64_t row, int64_t label) const {
    return wants_sums() ? factor_at(row, label) : factor_at(row, label) * reader_.scale();
  }

  const T* grad_output_at(int64_t row, int64_t label) const {
    if (!work_.backward) return nullptr;
    return static_cast<const T*>(work_.backward->grad_output) + row * work_.backward->grad_output_row_stride +
           label * work_.backward->grad_output_label_stride;
  }

  bool wants_sums() const { return work_.unit_row_gradients || work_.unit_scale_gradients; }

  void* gradient_memory() const { return work_.forward ? work_.forward->gradient : work_.backward->gradient; }

  bool wants_gradient() const { return gradient_memory() || wants_sums(); }

  // Where a tile's gradient is formed: in the output itself when no conversion stands between.
  T* gradient_target(int64_t row, int64_t label, T* buffer) const {
    constexpr DType own = sizeof(T) == 8 ? DType::kDouble : DType::kFloat;
    void* memory = gradient_memory();
    if (!memory || call_.logits_dtype != own) return buffer;
    // In place, the raw logits are still to be read for the gradient of logit_scale.
    if (work_.unit_scale_gradients) return buffer;
    return static_cast<T*>(memory) + row * call_.labels + label;
  }

  static double sum_of(const T* x, int size) {
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

  // ---- element-wise losses -------------------------------------------------------------------

  void evaluate(const Tile<T>& tile, T f, T* values, T* g) const {
    if constexpr (Loss::kScope == Scope::kElement) {
      with_kind(tile, [&](auto kind) {
        if (!work_.forward) {
          evaluate_as<false, true>(kind, tile, f, values, g);
        } else if (wants_gradient()) {
          evaluate_as<true, true>(kind, tile, f, values, g);
        } else {
          evaluate_as<true, false>(kind, tile, f, values, g);
        }
      });
    }
  }

  template <bool kValues, bool kGradient, Targets kTargets, bool kWeighted>
  void evaluate_as(TileKind<kTargets, kWeighted>, const Tile<T>& tile, T f, T* values, T* g) const {
    const Loss loss = loss_;
    const T *s = tile.s, *y = tile.y, *w = tile.w, *parameters = tile.parameters;
    // The gradient may overwrite the logits it is formed from, element by element.
#pragma omp simd
    for (int j = 0; j < tile.size; ++j) {
      evaluate_one<kValues, kGradient, kTargets, kWeighted>(loss, s, y, w, parameters, j, f, values, g);
    }
  }

  void store_values(int64_t unit, int64_t row, int64_t label, const Tile<T>& tile, const T* values) const {
    const T weight = sample_weight(row);
    if (work_.forward->values) {
      T* out = static_cast<T*>(work_.forward->values) + row * call_.labels + label;
      for (int j = 0; j < tile.size; ++j) out[j] = weight == T(0) ? T(0) : values[j] * weight;
      return;
    }
    work_.unit_values[unit] = weight == T(0) ? 0.0 : sum_of(values, tile.size) * static_cast<double>(weight);
  }

  // ---- group losses --------------------------------------------------------------------------

  // Sums with the maxima at 0; only a tile that overflows pays for its maxima.
  StatisticsOf<Wide, double> tile_statistics(const Tile<T>& tile) const {
    StatisticsOf<Loss, T> stats{};
    with_kind(tile, [&](auto kind) {
      stats.sums = tile_sums(kind, tile, stats.maxima);
      if (loss_.unsafe(stats.sums)) {
        stats.maxima = identity<Loss, T>().maxima;
        tile_maxima(kind, tile, stats.maxima);
        stats.sums = tile_sums(kind, tile, stats.maxima);
      }
    });
    StatisticsOf<Wide, double> wide;
    for (int k = 0; k < Loss::kMaxima; ++k) wide.maxima[k] = static_cast<double>(stats.maxima[k]);
    for (int k = 0; k < Loss::kSums; ++k) wide.sums[k] = static_cast<double>(stats.sums[k]);
    return wide;
  }

  template <Targets kTargets, bool kWeighted, class M>
  auto tile_sums(TileKind<kTargets, kWeighted>, const Tile<T>& tile, M maxima) const {
    static_assert(Loss::kSums <= 4, "a reduction variable for each sum");
    const Loss loss = loss_;
    const T *s = tile.s, *y = tile.y, *w = tile.w;
    Array<T, Loss::kSums> sums{};
    for (int begin = 0; begin < tile.size; begin += kRun) {
      const int end = begin + kRun < tile.size ? begin + kRun : tile.size;
      T a = T(0), b = T(0), c = T(0), d = T(0);
#pragma omp simd reduction(+ : a, b, c, d)
      for (int j = begin; j < end; ++j) add_one<kTargets, kWeighted>(loss, maxima, s, y, w, j, a, b, c, d);
      const T run[4] = {a, b, c, d};
      for (int k = 0; k < Loss::kSums; ++k) sums[k] += run[k];
    }
    return sums;
  }

  StatisticsOf<Wide, double> merged_statistics(int64_t first, int64_t units) const {
    auto stats = identity<Wide, double>();
    for (int64_t unit = first; unit < first + units; ++unit) {
      StatisticsOf<Wide, double> part;
      const double* in = work_.unit_statistics + unit * kStatistics;
      for (int k = 0; k < Loss::kMaxima; ++k) part.maxima[k] = in[k];
      for (int k = 0; k < Loss::kSums; ++k) part.sums[k] = in[Loss::kMaxima + k];
      merge<Wide, double>(stats, part);
    }
    return stats;
  }

  // The tile's, from the statistics of its row. Tiles without positives have none.
  template <class S>
  void add_late(const Tile<T>& tile, const S& stats, LateSums<Wide, double>& into) const {
    if (tile.targets == Targets::kNegative) return;
    const auto wide = Wide::settle(stats);
    decltype(Loss::settle(StatisticsOf<Loss, T>{})) settled;
    for (size_t k = 0; k < sizeof(wide) / sizeof(double); ++k) settled.v[k] = static_cast<T>(wide.v[k]);
    with_kind(tile, [&](auto kind) { add_late_of(kind, tile, settled, into); });
  }

  template <Targets kTargets, bool kWeighted, class S>
  void add_late_of(TileKind<kTargets, kWeighted>, const Tile<T>& tile, S settled, LateSums<Wide, double>& into) const {
    static_assert(Loss::kLateSums <= 2, "a reduction variable for each sum");
    const Loss loss = loss_;
    const T *s = tile.s, *y = tile.y, *w = tile.w;
    for (int begin = 0; begin < tile.size; begin += kRun) {
      const int end = begin + kRun < tile.size ? begin + kRun : tile.size;
      T a = T(0), b = T(0);
#pragma omp simd reduction(+ : a, b)
      for (int j = begin; j < end; ++j) add_late_one<kTargets, kWeighted>(loss, settled, s, y, w, j, a, b);
      const T run[2] = {a, b};
      for (int k = 0; k < Loss::kLateSums; ++k) into[k] += static_cast<double>(run[k]);
    }
  }

  template <Targets kTargets, bool kWeighted, class M>
  void tile_maxima(TileKind<kTargets, kWeighted>, const Tile<T>& tile, M& maxima) const {
    for (int j = 0; j < tile.size; ++j) {
      loss_.maxima(element<kTargets, kWeighted>(tile.s, tile.y, tile.w, j), maxima);
    }
  }

  void add_columns(const Tile<T>& tile, double (*sums)[kTile]) const {
    with_kind(tile, [&](auto kind) { add_columns_of(kind, tile, sums); });
  }

  template <Targets kTargets, bool kWeighted>
  void add_columns_of(TileKind<kTargets, kWeighted>, const Tile<T>& tile, double (*sums)[kTile]) const {
    const Loss loss = loss_;
    const auto none = identity<Loss, T>().maxima;
#pragma omp simd
    for (int j = 0; j < tile.size; ++j) {
      add_column<kTargets, kWeighted>(loss, none, tile.s, tile.y, tile.w, j, sums);
    }
  }

  // A group's coefficients, [kCoefficients, groups], and its value.
  template <class S>
  void conclude(int64_t group, const S& stats, const LateSums<Wide, double>& late) const {
    double value;
    const Wide wide(call_.parameters.values);
    const auto c = mlloss::finish<Wide, double>(wide, stats, late, value);
    T* out = static_cast<T*>(work_.forward->coefficients);
    for (int k = 0; k < Loss::kCoefficients; ++k) out[k * group_count(call_) + group] = static_cast<T>(c[k]);
    if (call_.grouping == Grouping::kSamples) {
      const T weight = sample_weight(group);
      value = weight == T(0) ? 0.0 : value * static_cast<double>(weight);
    }
    work_.unit_values[group] = value;
    if (work_.forward->values) static_cast<T*>(work_.forward->values)[group] = static_cast<T>(value);
  }

  const T* coefficients() const {
    return static_cast<const T*>(work_.forward ? work_.forward->coefficients : work_.backward->coefficients);
  }

  void group_gradient(const Tile<T>& tile, int64_t row, int64_t label, T f, T* g) const {
    if constexpr (Loss::kScope == Scope::kGroup) {
      if (call_.grouping == Grouping::kMacro) {
        with_kind(tile, [&](auto kind) { macro_gradient_of(kind, tile, coefficients() + label, f, g); });
        return;
      }
      const int64_t group = call_.grouping == Grouping::kSamples ? row : 0;
      Array<T, Loss::kCoefficients> c;
      for (int k = 0; k < Loss::kCoefficients; ++k) c[k] = coefficients()[k * group_count(call_) + group];
      with_kind(tile, [&](auto kind) { group_gradient_of(kind, tile, Loss::scaled(c, f), g); });
    }
  }

  template <Targets kTargets, bool kWeighted, class C>
  void group_gradient_of(TileKind<kTargets, kWeighted>, const Tile<T>& tile, C c, T* g) const {
    const Loss loss = loss_;
    const T *s = tile.s, *y = tile.y, *w = tile.w;
#pragma omp simd
    for (int j = 0; j < tile.size; ++j) g[j] = gradient_one<kTargets, kWeighted>(loss, s, y, w, j, c);
  }

  template <Targets kTargets, bool kWeighted>
  void macro_gradient_of(TileKind<kTargets, kWeighted>, const Tile<T>& tile, const T* coefficients, T f, T* g) const {
    const Loss loss = loss_;
    const int64_t stride = call_.labels;
#pragma omp simd
    for (int j = 0; j < tile.size; ++j) {
      g[j] = f * macro_one<kTargets, kWeighted>(loss, tile.s, tile.y, tile.w, j, coefficients + j, stride);
    }
  }

  // ---- one element -----------------------------------------------------------------------------
  // The bodies of the loops above. They are functions because GCC keeps a struct that is declared in
  // the body of an `omp simd` loop in memory, and then does not vectorise.

  template <bool kValues, bool kGradient, Targets kTargets, bool kWeighted>
  static MLLOSS_HD void evaluate_one(const Loss& loss, const T* s, const T* y, const T* w, const T* parameters, int j,
                                     T f, T* values, T* g) {
    auto e = element<kTargets, kWeighted>(s, y, w, j);
    if constexpr (Loss::kLabelParameter) e.parameter = parameters[j];
    const ValueAndGradient<T> r = loss.evaluate(e);
    if (kValues) values[j] = r.value * e.w;
    if (kGradient) g[j] = r.gradient * (e.w * f);
  }

  template <Targets kTargets, bool kWeighted, class M>
  static MLLOSS_HD void add_one(const Loss& loss, const M& maxima, const T* s, const T* y, const T* w, int j, T& a,
                                T& b, T& c, T& d) {
    const auto v = loss.sums(element<kTargets, kWeighted>(s, y, w, j), maxima);
    a += v[0];
    if constexpr (Loss::kSums > 1) b += v[1];
    if constexpr (Loss::kSums > 2) c += v[2];
    if constexpr (Loss::kSums > 3) d += v[3];
  }

  template <Targets kTargets, bool kWeighted, class S>
  static MLLOSS_HD void add_late_one(const Loss& loss, const S& settled, const T* s, const T* y, const T* w, int j,
                                     T& a, T& b) {
    const auto v = loss.late(element<kTargets, kWeighted>(s, y, w, j), settled);
    a += v[0];
    if constexpr (Loss::kLateSums > 1) b += v[1];
  }

  template <Targets kTargets, bool kWeighted, class M>
  static MLLOSS_HD void add_column(const Loss& loss, const M& maxima, const T* s, const T* y, const T* w, int j,
                                   double (*sums)[kTile]) {
    const auto v = loss.sums(element<kTargets, kWeighted>(s, y, w, j), maxima);
    for (int k = 0; k < Loss::kSums; ++k) sums[k][j] += static_cast<double>(v[k]);
  }

  template <Targets kTargets, bool kWeighted>
  static MLLOSS_HD T macro_one(const Loss& loss, const T* s, const T* y, const T* w, int j, const T* coefficients,
                               int64_t stride) {
    Array<T, Loss::kCoefficients> c;
    for (int k = 0; k < Loss::kCoefficients; ++k) c[k] = coefficients[k * stride];
    return loss.gradient(element<kTargets, kWeighted>(s, y, w, j), c);
  }

  template <Targets kTargets, bool kWeighted, class C>
  static MLLOSS_HD T gradient_one(const Loss& loss, const T* s, const T* y, const T* w, int j, const C& c) {
    return loss.gradient(element<kTargets, kWeighted>(s, y, w, j), c);
  }

  // ---- what every gradient goes through --------------------------------------------------------

  // A grad_output for each element, and the exact zeros of what is excluded.
  void settle(const Tile<T>& tile, int64_t row, int64_t label, T* g) const {
    if (!crosses_rows(call_) && sample_weight(row) == T(0)) {
      for (int j = 0; j < tile.size; ++j) g[j] = T(0);
      return;
    }
    const int64_t stride = work_.backward ? work_.backward->grad_output_label_stride : 0;
    if (stride != 0) {
      const T* grad_output = grad_output_at(row, label);
      for (int j = 0; j < tile.size; ++j) g[j] *= grad_output[j * stride];
    }
    if (tile.excluded) {
      // Where labels compete, one of weight 0 is not out.
      for (int j = 0; j < tile.size; ++j) {
        const bool out = tile.w[j] == T(0) && (!Loss::kCompeting || tile.s[j] == T(-INFINITY));
        g[j] = out ? T(0) : g[j];
      }
    }
  }

  void finish_gradient(const Tile<T>& tile, int64_t unit, int64_t row, int64_t label, T* g) const {
    settle(tile, row, label, g);
    if (work_.unit_row_gradients) {
      work_.unit_row_gradients[unit] = sum_of(g, tile.size);
    }
    if (work_.unit_scale_gradients) {
      alignas(64) T x[kTile];
      reader_.read_raw(row, label, tile.size, x);
      double sum = 0.0;
      // Where nothing flows, an infinite or unknown logit must not count.
      for (int j = 0; j < tile.size; ++j)
        sum += g[j] == T(0) ? 0.0 : static_cast<double>(g[j]) * static_cast<double>(x[j]);
      work_.unit_scale_gradients[unit] = sum;
    }
    if (!gradient_memory()) return;
    const T scale = reader_.scale();
    if (wants_sums() && scale != T(1)) {
      for (int j = 0; j < tile.size; ++j) g[j] *= scale;
    }
    store_gradient(row, label, tile.size, g);
  }

  void store_gradient(int64_t row, int64_t label, int size, const T* g) const {
    with_floating(call_.logits_dtype, [&](auto* type) {
      using Out = std::remove_pointer_t<decltype(type)>;
      Out* out = static_cast<Out*>(gradient_memory()) + row * call_.labels + label;
      if (static_cast<const void*>(out) == static_cast<const void*>(g)) return;
      for (int j = 0; j < size; ++j) out[j] = narrow<Out>(g[j]);
    });
  }
};

}  // namespace MLLOSS_ISA
}  // namespace mlloss
