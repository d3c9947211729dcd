// Every kernel on small shapes under the race detector: every loss of the registry, dtype of the
// kernels, strategy of the planner and layout of targets, with several warps and blocks, and several
// rows a block. Results are checked too: what a missing barrier spoils need not be a race.
//   race_driver           every case, a line each; functors that share their kernels with another in float alone
//   race_driver WORD...   the cases with these words in their line, as: race_driver float zlpr team
//   race_driver -x ...    stops at the first that fails
//   race_driver -b ...    without functors that share their kernels with another, if none is named
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "race_launch.h"
#include "race_reference.h"

extern "C" __attribute__((weak)) int cuemu_race_count(void);  // race_runtime.cpp

namespace mlloss {
namespace race {
namespace {

using reference::Inputs;
using reference::Results;

// The size of a case in rows and in chunks of a row, so that every dtype has as many warps. The blocks of a team have
// at least `threads`.
struct Shape {
  int64_t rows, chunks;
  int team, threads;
  bool only_teams;
};
constexpr Shape kShapes[] = {
    {10, 200, 1, 32, false},  // several rows a block of several warps
    {10, 400, 2, 96, false},  // several tiles a row; two teams of two blocks, each with a warp for each of its tasks
    {70, 6, 1, 32, false},    // rows in several groups for the sums over rows
    {3, 140, 70, 32, true},   // a team of so many blocks that a lane waits for several packets, and then for more
};

enum class Layout { kDense, kSparse, kSecondLogits };

// How a call is made: layout and place have nothing to do with each other, so two runs cover both. Where other logits
// stand in the targets' place, these are dense.
struct Variant {
  Layout layout;
  bool in_place;
  bool options;  // all options; without them calls take the fast path
  const char* name;
};
constexpr Variant kVariants[] = {{Layout::kDense, false, true, "dense"},
                                 {Layout::kSparse, true, true, "sparse in-place"},
                                 {Layout::kDense, true, false, "plain dense in-place"},
                                 {Layout::kSparse, false, false, "plain sparse"},
                                 {Layout::kSecondLogits, false, true, "raw"}};

constexpr const char* kGroupings[] = {"element", "samples", "macro", "micro"};

Inputs random_inputs(Shape shape, int64_t width) {
  std::mt19937 random(static_cast<unsigned>(shape.rows));
  const auto uniform = [&](double low, double high) {
    return std::uniform_real_distribution<double>(low, high)(random);
  };
  Inputs in{};
  in.rows = shape.rows;
  in.labels = shape.chunks * width + 1;  // rows begin inside a chunk
  for (int64_t row = 0; row < in.rows; ++row) {
    const double range = row % 5 == 2 ? 120.0 : 4.0;  // so high that sums without maxima overflow
    for (int64_t label = 0; label < in.labels; ++label) {
      in.logits.push_back(uniform(-range, range));
      in.targets.push_back(uniform(0, 1) < 0.1);
    }
    in.sample_weight.push_back(static_cast<double>(row % 3));
    in.row_offset.push_back(uniform(-1, 1));
  }
  for (int64_t label = 0; label < in.labels; ++label) {
    in.weight.push_back(0.5 * static_cast<double>(label % 4));
    in.label_offset.push_back(uniform(-1, 1));
    in.label_parameter.push_back(uniform(0.5, 2));
  }
  for (int64_t group = 0; group < std::max(in.rows, in.labels); ++group) in.grad_output.push_back(uniform(0.5, 2));
  in.scale = 0.75;
  in.factor = 64.0;  // so that float16 holds the smallest gradients
  in.normalizer = 2.0;
  // In the range of each functor's, with or without a coefficient before them.
  for (int i = 0; i < kMaxParameters; ++i) {
    constexpr double kOwn[kTermParameters] = {1.0, 0.25, 0.75, 0.5, 1.25, 1.0, 0.0, 0.0};
    in.parameters.values[i] = kOwn[i % kTermParameters];
  }
  return in;
}

// The same logits and targets without options. Weights of rows do not count as one.
Inputs without_options(Inputs in) {
  std::fill(in.weight.begin(), in.weight.end(), 1.0);
  std::fill(in.label_parameter.begin(), in.label_parameter.end(), 1.0);
  std::fill(in.label_offset.begin(), in.label_offset.end(), 0.0);
  std::fill(in.row_offset.begin(), in.row_offset.end(), 0.0);
  in.scale = 1.0;
  return in;
}

// NaN where nothing is written.
template <class T>
std::vector<T> unwritten(size_t count) {
  std::vector<T> memory(count);
  std::memset(static_cast<void*>(memory.data()), 0xFF, count * sizeof(T));
  return memory;
}

template <class T>
std::vector<T> rounded(const std::vector<double>& exact) {
  std::vector<T> narrow;
  for (const double x : exact) narrow.push_back(static_cast<T>(x));
  return narrow;
}

// The numbers as the kernels take them: `In` is the logits' type, T the type they compute in.
template <class In, class T>
struct Arguments {
  std::vector<In> logits;
  std::vector<uint8_t> dense;
  std::vector<In> raw;
  std::vector<int64_t> crow_indices{0}, col_indices;
  std::vector<T> weight, sample_weight, label_offset, label_parameter, row_offset, grad_output;
  T scale, normalizer;
  Call call{};

  Arguments(const Inputs& in, DType dtype, Layout layout, bool options)
      : logits(rounded<In>(in.logits)),
        dense(in.targets.begin(), in.targets.end()),
        raw(rounded<In>({in.targets.begin(), in.targets.end()})),
        weight(rounded<T>(in.weight)),
        sample_weight(rounded<T>(in.sample_weight)),
        label_offset(rounded<T>(in.label_offset)),
        label_parameter(rounded<T>(in.label_parameter)),
        row_offset(rounded<T>(in.row_offset)),
        grad_output(rounded<T>(in.grad_output)),
        scale(static_cast<T>(in.scale)),
        normalizer(static_cast<T>(in.normalizer)) {
    for (size_t i = 0; i < dense.size(); ++i) {
      if (dense[i]) col_indices.push_back(static_cast<int64_t>(i) % in.labels);
      if (static_cast<int64_t>(i + 1) % in.labels == 0) crow_indices.push_back(col_indices.size());
    }
    call.rows = in.rows;
    call.labels = call.all_labels = call.logits_row_stride = call.gradient_row_stride = in.labels;
    call.logits = logits.data();
    call.logits_label_stride = 1;
    call.logits_dtype = dtype;
    if (layout != Layout::kSparse) {
      call.targets_dtype = layout == Layout::kDense ? DType::kBool : dtype;
      call.targets = layout == Layout::kDense ? static_cast<const void*>(dense.data()) : raw.data();
      call.targets_row_stride = in.labels;
      call.targets_label_stride = 1;
    } else {
      call.crow_indices = crow_indices.data();
      call.col_indices = col_indices.data();
      call.nnz = static_cast<int64_t>(col_indices.size());
      call.wide_indices = true;
    }
    call.sample_weight = sample_weight.data();
    call.scale = 1.0;
    if (options) {
      call.weight = weight.data();
      call.logit_scale = &scale;
      call.label_offset = label_offset.data();
      call.label_parameter = label_parameter.data();
      call.row_offset = row_offset.data();
      call.row_offset_stride = 1;
    }
    call.grouping = in.grouping;
    call.factor = in.factor;
    call.normalizer = &normalizer;
    call.parameters = in.parameters;
  }
};

// The failures of a case as text, which is empty if there are none.
class Findings {
 public:
  explicit Findings(double tolerance) : tolerance_(tolerance) {}

  template <class T>
  void compare(const char* what, const T* got, const std::vector<double>& exact) {
    compare(what, got, exact, exact);
  }
  template <class T>
  void compare(const char* what, const T* got, const reference::Sums& exact) {
    compare(what, got, exact.values, exact.magnitudes);
  }

  std::string text() const { return text_; }

 private:
  double tolerance_;
  std::string text_;

  template <class T>
  void compare(const char* what, const T* got, const std::vector<double>& exact, const std::vector<double>& size) {
    double largest = 0;
    for (const double x : size) largest = std::max(largest, std::fabs(x));
    for (size_t i = 0; i < exact.size(); ++i) {
      const double x = static_cast<double>(got[i]);
      if (std::fabs(x - exact[i]) <= tolerance_ * largest) continue;
      text_ += std::string(", ") + what + "[" + std::to_string(i) + "] is " + std::to_string(x) + " and not " +
               std::to_string(exact[i]);
      return;
    }
  }
};

template <class In, class T>
void run_forward(const Engine& engine, const Inputs& in, const Results& exact, DType dtype, const Variant& variant,
                 Findings& found) {
  Arguments<In, T> arguments(in, dtype, variant.layout, variant.options);
  std::vector<In> gradient = unwritten<In>(variant.in_place ? 0 : exact.gradient.size());
  std::vector<T> coefficients = unwritten<T>(static_cast<size_t>(engine.kernels.coefficients) * in.groups());
  T total;
  ForwardOutputs out{};
  out.total = &total;
  out.coefficients = coefficients.data();
  In* result = variant.in_place ? arguments.logits.data() : gradient.data();
  out.gradient = result;
  engine.forward(arguments.call, out);
  found.compare("total", &total, std::vector<double>{exact.total});
  found.compare("gradient", result, exact.gradient);

  std::vector<double> halved(exact.gradient);
  for (double& x : halved) x /= 2;
  const T half = T(0.5);
  engine.scale(result, static_cast<int64_t>(halved.size()), &half);
  found.compare("scaled gradient", result, halved);
}

// Runs a forward pass with the gradients of both logits.
template <class In, class T>
void run_pair(const Engine& engine, const Inputs& in, const Results& exact, DType dtype, const Variant& variant,
              Findings& found) {
  Arguments<In, T> arguments(in, dtype, variant.layout, variant.options);
  std::vector<In> gradient = unwritten<In>(exact.gradient.size()), other = unwritten<In>(exact.gradient.size());
  T total;
  ForwardOutputs out{};
  out.total = &total;
  out.gradient = gradient.data();
  out.other_gradient = other.data();
  engine.forward(arguments.call, out);
  found.compare("total of a pair", &total, std::vector<double>{exact.total});
  found.compare("gradient of a pair", gradient.data(), exact.gradient);
  found.compare("other gradient", other.data(), exact.other_gradient);
}

template <class In, class T>
void run_backward(const Engine& engine, const Inputs& in, const Results& exact, DType dtype, const Variant& variant,
                  Findings& found) {
  Arguments<In, T> arguments(in, dtype, variant.layout, variant.options);
  std::vector<In> gradient = unwritten<In>(variant.in_place ? 0 : exact.gradient.size());
  std::vector<T> coefficients = unwritten<T>(static_cast<size_t>(engine.kernels.coefficients) * in.groups());
  std::vector<T> values = unwritten<T>(exact.values.size());
  ForwardOutputs forward{};
  forward.values = values.data();
  forward.coefficients = coefficients.data();
  engine.forward(arguments.call, forward);
  found.compare("value", values.data(), exact.values);

  std::vector<T> rows = unwritten<T>(in.rows), scales = unwritten<T>(in.rows), labels = unwritten<T>(in.labels);
  BackwardOutputs out{};
  out.coefficients = coefficients.data();
  out.grad_output = arguments.grad_output.data();
  out.grad_output_row_stride = in.crosses_rows() ? 0 : 1;
  out.grad_output_label_stride = in.grouping == Grouping::kMacro ? 1 : 0;
  In* result = variant.in_place ? arguments.logits.data() : gradient.data();
  out.gradient = result;
  out.row_gradient = rows.data();
  out.scale_gradient = scales.data();
  out.label_gradient = labels.data();
  engine.backward(arguments.call, out);
  found.compare("backward gradient", result, exact.backward_gradient);
  found.compare("row gradient", rows.data(), exact.row_gradient);
  found.compare("scale gradient", scales.data(), exact.scale_gradient);
  found.compare("label gradient", labels.data(), exact.label_gradient);
}

// Runs the steps of a caller that has the labels in parts.
template <class In, class T>
void run_parts(const Engine& engine, const Inputs& in, const Results& exact, DType dtype, const Variant& variant,
               Findings& found) {
  const Arguments<In, T> arguments(in, dtype, variant.layout, variant.options);
  if (engine.wanted != Strategy::kSplit || !engine.spans_parts(arguments.call)) return;
  const cuda::Table table = sizeof(T) == 8 ? cuda::table_double() : cuda::table_float();
  T total;
  engine.parts(arguments.call, table.losses[&engine.kernels - engine.table.losses], &total);
  found.compare("total of parts", &total, std::vector<double>{exact.total});
}

// ---- every case ----------------------------------------------------------------------------------

template <class In, class T>
struct Logits {
  const char* name;
  DType dtype;
  cuda::Table table;
  double tolerance;
};

// The kind of a loss decides which kernels run: element-wise or not, across rows or not, second-pass sums or not.
bool first_of_its_kind(const cuda::Table& table, int loss) {
  const auto kind = [&](int i) {
    const cuda::LossKernels& kernels = table.losses[i];
    return std::make_tuple(kernels.element_wise, kernels.across_rows, kernels.second_pass_sums > 0);
  };
  for (int other = 0; other < loss; ++other) {
    if (kind(other) == kind(loss)) return false;
  }
  return true;
}

// The path of a team kernel, if several blocks work on a row.
std::string teams_of(const LaunchPlan& plan, cuda::FastPath path) {
  constexpr const char* kNames[] = {"general", "sparse", "dense"};
  return plan.team > 1 ? std::string("several blocks, ") + kNames[static_cast<int>(path)] : "";
}

class Driver {
 public:
  Driver(std::vector<std::string> words, bool stop, bool brief)
      : words_(std::move(words)), stop_(stop), brief_(brief) {}

  template <class In, class T>
  void run_dtype(const Logits<In, T>& logits) {
    if (words_.size() == 1 && named(logits.name)) whole_ = true;
    for (const Shape& shape : kShapes) {
      Inputs in = random_inputs(shape, kChunkBytes / static_cast<int64_t>(sizeof(In)));
      for (double& x : in.logits) x = static_cast<double>(static_cast<In>(x));
      for (int loss = 0; loss < logits.table.count; ++loss) {
        const bool every_functor = logits.dtype == DType::kFloat && !brief_ && !shape.only_teams;
        const bool first = shape.only_teams ? loss == 0 : first_of_its_kind(logits.table, loss);
        if (!first && !every_functor && !named(reference::kLosses[loss].name)) continue;
        only_teams_ = shape.only_teams;
        const Engine engine{logits.table, logits.table.losses[loss], Strategy::kAutomatic, shape.team, shape.threads};
        for (const Grouping grouping : engine.groupings()) {
          in.grouping = grouping;
          run_loss(logits, engine, reference::kLosses[loss], in);
        }
      }
    }
  }

  // A run of everything, or of all of a dtype, must have been one of every strategy, and of teams of several blocks on
  // every path. Double has no team kernels.
  int result() const {
    int missing = 0;
    std::vector<std::string> needed{"element-wise", "split"};
    if (words_ != std::vector<std::string>{"double"}) {
      needed.insert(needed.end(),
                    {"team", "several blocks, general", "several blocks, sparse", "several blocks, dense"});
    }
    for (const std::string& what : needed) {
      if (!whole_ || (stop_ && failed_) || ran_.count(what)) continue;
      std::printf("FAILED %s: no case\n", what.c_str());
      ++missing;
    }
    if (cases_ == 0) std::puts("FAILED: no such case");
    std::printf("%d cases, %d failed\n", cases_, failed_ + missing);
    return failed_ + missing > 0 || cases_ == 0;
  }

 private:
  std::vector<std::string> words_;
  bool stop_;  // at the first failure
  bool brief_;
  bool whole_ = words_.empty();
  bool only_teams_ = false;
  std::set<std::string> ran_;  // strategies and what teams_of() returns
  int cases_ = 0, failed_ = 0;

  bool named(const std::string& word) const { return std::count(words_.begin(), words_.end(), word) != 0; }

  bool wanted(const std::string& label) const {
    if (stop_ && failed_) return false;
    const std::string spaced = " " + label + " ";
    return std::all_of(words_.begin(), words_.end(),
                       [&](const std::string& word) { return spaced.find(" " + word + " ") != std::string::npos; });
  }

  template <class In, class T>
  void run_loss(const Logits<In, T>& logits, Engine engine, const reference::Named& loss, const Inputs& in) {
    const std::string shape = std::to_string(in.rows) + "x" + std::to_string(in.labels);
    const Inputs inputs[] = {without_options(in), in};
    Results results[2];
    for (const Strategy strategy : kStrategies) {
      engine.wanted = strategy;
      if (only_teams_ && strategy != Strategy::kTeam) continue;
      for (const Variant& variant : kVariants) {
        const std::string label = std::string(logits.name) + " " + loss.name + " " +
                                  kGroupings[static_cast<int>(in.grouping)] + " " + name_of(strategy) + " " + shape +
                                  " " + variant.name;
        if ((variant.layout == Layout::kSecondLogits) != loss.second_logits || !wanted(label)) continue;
        const Inputs& used = inputs[variant.options];
        Results& exact = results[variant.options];
        const Arguments<In, T> arguments(used, logits.dtype, variant.layout, variant.options);
        // A new gradient begins with a chunk, as the logits do.
        const LaunchPlan plan = engine.plan_for(arguments.call, arguments.logits.data());
        if (plan.strategy != strategy) continue;
        if (exact.values.empty()) exact = loss.results(used);
        ran_.insert(name_of(strategy));
        ran_.insert(teams_of(plan, cuda::team_path_of(arguments.call, arguments.logits.data())));
        run_case(label, logits.tolerance, [&](Findings& found) {
          run_forward<In, T>(engine, used, exact, logits.dtype, variant, found);
          run_backward<In, T>(engine, used, exact, logits.dtype, variant, found);
          if (loss.second_logits) run_pair<In, T>(engine, used, exact, logits.dtype, variant, found);
          run_parts<In, T>(engine, used, exact, logits.dtype, variant, found);
        });
      }
    }
  }

  template <class F>
  void run_case(const std::string& label, double tolerance, F run) {
    std::printf("%s", label.c_str());
    std::fflush(stdout);  // an error in a kernel ends the process
    const int races = cuemu_race_count ? cuemu_race_count() : 0;
    Findings found(tolerance);
    run(found);
    std::string text = found.text();
    const int more = cuemu_race_count ? cuemu_race_count() - races : 0;
    if (more) text += ", " + std::to_string(more) + " racing accesses";
    std::printf(": %s%s\n", text.empty() ? "ok" : "FAILED", text.c_str());
    ++cases_;
    failed_ += !text.empty();
  }
};

}  // namespace
}  // namespace race
}  // namespace mlloss

int main(int count, char** arguments) {
  using mlloss::DType;
  setenv("CUEMU_SMS", "20", 0);  // room for the largest team
  std::vector<std::string> words(arguments + 1, arguments + count);
  const auto flag = [&](const char* name) {
    const auto rest = std::remove(words.begin(), words.end(), name);
    const bool given = rest != words.end();
    words.erase(rest, words.end());
    return given;
  };
  const bool stop = flag("-x"), brief = flag("-b");
  mlloss::race::Driver driver(words, stop, brief);
  driver.run_dtype<float, float>({"float", DType::kFloat, mlloss::cuda::table_float(), 1e-4});
  driver.run_dtype<double, double>({"double", DType::kDouble, mlloss::cuda::table_double(), 1e-10});
  driver.run_dtype<__half, float>({"half", DType::kHalf, mlloss::cuda::table_half(), 2e-3});
#ifndef MLLOSS_RACES_BRIEF  // half has kernels of the same width
  driver.run_dtype<__nv_bfloat16, float>({"bfloat16", DType::kBFloat16, mlloss::cuda::table_bfloat16(), 1e-2});
#endif
  return driver.result();
}
