// The CPU engine as torch ops: chooses an instruction set once, and a way through the rows each call.
#include <algorithm>

#include "../losses/registry.h"
#include "../ops.h"
#include "kernels.h"
#include "x86_level.h"

namespace mlloss {
namespace {

using cpu::Kernel;
using cpu::Kernels;
using cpu::Work;

// The instruction sets that are built, each with its kernels.
using TableOf = cpu::Table (*)();
constexpr TableOf kTables[cpu::kIsaCount] = {
#if defined(MLLOSS_BUILT_baseline)
    cpu::table_baseline,
#else
    nullptr,
#endif
#if defined(MLLOSS_BUILT_x86_64_v3)
    cpu::table_x86_64_v3,
#else
    nullptr,
#endif
#if defined(MLLOSS_BUILT_x86_64_v4)
    cpu::table_x86_64_v4,
#else
    nullptr,
#endif
};

bool can_run(int isa) { return isa >= 0 && isa <= cpu::machine_isa() && kTables[isa]; }

// -1 where the library is built for other processors alone.
int best_isa() {
  int isa = cpu::machine_isa();
  while (isa >= 0 && !kTables[isa]) --isa;
  return isa;
}

int& active_isa() {
  static int isa = best_isa();
  return isa;
}

cpu::Table table() {
  STD_TORCH_CHECK(active_isa() >= 0, "mlloss_cuda: the CPU kernels are built for another processor; build them here");
  return kTables[active_isa()]();
}

#define MLLOSS_NAME(name, Functor) #name,
constexpr const char* kLossNames[] = {MLLOSS_FOR_EACH_LOSS(MLLOSS_NAME)};

// A loss, or several of them in one pass.
struct Program {
  Kernels kernels;
  std::vector<int> terms;  // of a compound: places in the registry

  void name_terms(Work& work) const {
    work.terms = terms.data();
    work.term_count = static_cast<int>(terms.size());
  }
};

int place_of(const std::string& loss) {
  for (int i = 0; i < table().losses; ++i) {
    if (loss == kLossNames[i]) return i;
  }
  STD_TORCH_CHECK(false, "mlloss_cuda: this build has no loss named ", loss);
}

// `wide`: of logits in float64.
Program program_of(const std::string& loss, bool wide) {
  const cpu::Table t = table();
  const Kernels* losses = wide ? t.float64 : t.float32;
  if (loss.find(kCompound) == std::string::npos) return {losses[place_of(loss)], {}};
  Program program{wide ? t.compound64 : t.compound32, {}};
  for (size_t begin = 0, end = 0; end != std::string::npos; begin = end + 1) {
    end = loss.find(kCompound, begin);
    const int place = place_of(loss.substr(begin, end == std::string::npos ? end : end - begin));
    program.terms.push_back(place);
    program.kernels.statistics += losses[place].element_wise ? 1 : losses[place].statistics;
    program.kernels.coefficients += losses[place].coefficients + 1;  // and the term's value
  }
  STD_TORCH_CHECK(program.terms.size() <= kMostTerms, "mlloss_cuda: more terms than Python should have let through");
  return program;
}

Program program_of(const std::string& loss, const Tensor& logits) {
  return program_of(loss, logits.scalar_type() == ScalarType::Double);
}

int64_t tiles_of(int64_t labels) { return (labels + cpu::kLabelsPerUnit - 1) / cpu::kLabelsPerUnit; }

constexpr int64_t kElementsWorthAThread = 16384;

// `weight` elements are behind each of the n items.
void parallel(Kernel kernel, const Work& work, int64_t n, int64_t weight) {
  const int64_t grain = std::max<int64_t>(1, kElementsWorthAThread / std::max<int64_t>(1, weight));
  torch::stable::parallel_for(0, n, grain, [&](int64_t begin, int64_t end) { kernel(work, begin, end); });
}

// Whole rows a thread keep a row in cache between its two visits, when there are rows enough to share.
bool by_rows(const Call& call) {
  return call.grouping == Grouping::kSamples &&
         (call.rows >= 4 * torch::stable::get_num_threads() || tiles_of(call.labels) < 2);
}

void store_total(const Call& call, const std::vector<double>& values, void* out) {
  double total = 0.0;
  for (const double value : values) total += value;
  total *= call.factor;
  if (call.logits_dtype == DType::kDouble) {
    if (call.normalizer) total /= *static_cast<const double*>(call.normalizer);
    *static_cast<double*>(out) = total;
  } else {
    if (call.normalizer) total /= static_cast<double>(*static_cast<const float*>(call.normalizer));
    *static_cast<float*>(out) = static_cast<float>(total);
  }
}

void run_forward(const Program& program, const Call& call, ForwardOutputs out) {
  const Kernels& kernels = program.kernels;
  std::vector<double> coefficients;
  if (!out.coefficients && !kernels.element_wise) {
    coefficients.resize(static_cast<size_t>(kernels.coefficients * group_count(call)));
    out.coefficients = coefficients.data();
  }
  const int64_t tiles = tiles_of(call.labels), units = call.rows * tiles;
  const int64_t unit_size = std::min(call.labels, cpu::kLabelsPerUnit);
  std::vector<double> values(static_cast<size_t>(kernels.element_wise ? units : group_count(call)));
  std::vector<double> statistics;
  Work work{&call, &out, nullptr, values.data(), nullptr, nullptr, nullptr};
  program.name_terms(work);
  if (kernels.element_wise) {
    parallel(kernels.elements, work, units, unit_size);
  } else if (call.grouping == Grouping::kMacro) {
    parallel(kernels.macro, work, tiles, unit_size * call.rows);
  } else if (by_rows(call)) {
    parallel(kernels.rows, work, call.rows, call.labels);
  } else {
    statistics.resize(static_cast<size_t>(units * kernels.statistics));
    work.unit_statistics = statistics.data();
    parallel(kernels.statistics_of, work, units, unit_size);
    if (kernels.late) parallel(kernels.late, work, units, unit_size);
    kernels.finish(work, 0, group_count(call));
    if (out.gradient) parallel(kernels.gradient, work, units, unit_size);
  }
  if (out.total) store_total(call, values, out.total);
}

// ---- over a part of the labels: each step of the above alone ----------------------------------------

void run_statistics(const Program& program, const Call& call, double* out) {
  const int64_t units = call.rows * tiles_of(call.labels);
  std::vector<double> statistics(static_cast<size_t>(units * program.kernels.statistics));
  Work work{&call, nullptr, nullptr, nullptr, statistics.data(), nullptr, nullptr, out};
  program.name_terms(work);
  parallel(program.kernels.statistics_of, work, units, std::min(call.labels, cpu::kLabelsPerUnit));
  program.kernels.merge(work, 0, group_count(call));
}

// From the merged statistics of all parts.
void run_late(const Program& program, const Call& call, const double* known, double* out) {
  const int count = program.kernels.late_sums, all = program.kernels.statistics;
  const int64_t tiles = tiles_of(call.labels), units = call.rows * tiles;
  std::vector<double> sums(static_cast<size_t>(units * all));
  Work work{&call, nullptr, nullptr, nullptr, sums.data(), nullptr, nullptr, const_cast<double*>(known)};
  if (program.kernels.late) parallel(program.kernels.late, work, units, std::min(call.labels, cpu::kLabelsPerUnit));
  for (int64_t row = 0; row < call.rows; ++row) {
    for (int k = 0; k < count; ++k) {
      double sum = 0.0;
      for (int64_t unit = row * tiles; unit < (row + 1) * tiles; ++unit) {
        sum += sums[static_cast<size_t>(unit * all + all - count + k)];
      }
      out[k * call.rows + row] = sum;
    }
  }
}

// Parts, as the kernels have units: groups are rows of as many tiles.
class PartsAsUnits {
 public:
  PartsAsUnits(const Program& program, const Call& call, const Parts& parts)
      : call_(call), statistics_(static_cast<size_t>(parts.groups * parts.parts * program.kernels.statistics)) {
    call_.rows = parts.groups;
    call_.grouping = Grouping::kSamples;
    call_.labels = parts.parts * cpu::kLabelsPerUnit;
    const int late = program.kernels.late_sums;
    place(parts, parts.statistics, 0, program.kernels.statistics - late, program.kernels.statistics);
    if (parts.late) place(parts, parts.late, program.kernels.statistics - late, late, program.kernels.statistics);
  }

  Work work(const ForwardOutputs* out, double* values, double* merged) {
    return {&call_, out, nullptr, values, statistics_.data(), nullptr, nullptr, merged};
  }

 private:
  Call call_;
  std::vector<double> statistics_;

  void place(const Parts& parts, const double* from, int begin, int count, int stride) {
    for (int64_t part = 0; part < parts.parts; ++part) {
      for (int k = 0; k < count; ++k) {
        for (int64_t group = 0; group < parts.groups; ++group) {
          statistics_[static_cast<size_t>((group * parts.parts + part) * stride + begin + k)] = *from++;
        }
      }
    }
  }
};

void run_merge(const Program& program, const Parts& parts, double* out) {
  PartsAsUnits units(program, Call{}, parts);
  Work work = units.work(nullptr, nullptr, out);
  program.name_terms(work);
  program.kernels.merge(work, 0, parts.groups);
}

void run_finish(const Program& program, Call call, const Parts& parts, const ForwardOutputs& out) {
  if (crosses_rows(call)) call.sample_weight = nullptr;  // it is in the statistics
  PartsAsUnits units(program, call, parts);
  std::vector<double> values(static_cast<size_t>(parts.groups));
  Work work = units.work(&out, values.data(), nullptr);
  program.name_terms(work);
  program.kernels.finish(work, 0, parts.groups);
  if (out.total) store_total(call, values, out.total);
}

// ---- backward -------------------------------------------------------------------------------------------

template <class T>
void sum_rows(const std::vector<double>& units, int64_t rows, void* out) {
  const int64_t tiles = rows > 0 ? static_cast<int64_t>(units.size()) / rows : 0;
  for (int64_t row = 0; row < rows; ++row) {
    double sum = 0.0;
    for (int64_t t = 0; t < tiles; ++t) sum += units[static_cast<size_t>(row * tiles + t)];
    static_cast<T*>(out)[row] = static_cast<T>(sum);
  }
}

void sum_rows(DType dtype, const std::vector<double>& units, int64_t rows, void* out) {
  dtype == DType::kDouble ? sum_rows<double>(units, rows, out) : sum_rows<float>(units, rows, out);
}

void run_backward(const Program& program, const Call& call, const BackwardOutputs& out) {
  const Kernels& kernels = program.kernels;
  const int64_t tiles = tiles_of(call.labels), units = call.rows * tiles;
  const int64_t unit_size = std::min(call.labels, cpu::kLabelsPerUnit);
  std::vector<double> rows(out.row_gradient ? static_cast<size_t>(units) : 0);
  std::vector<double> scales(out.scale_gradient ? static_cast<size_t>(units) : 0);
  Work work{&call, nullptr, &out, nullptr, nullptr, nullptr, nullptr};
  program.name_terms(work);
  // First: in place, the next pass overwrites the logits.
  if (out.label_gradient) parallel(kernels.label_gradient, work, tiles, unit_size * call.rows);
  if (out.row_gradient) work.unit_row_gradients = rows.data();
  if (out.scale_gradient) work.unit_scale_gradients = scales.data();
  if (out.gradient || out.row_gradient || out.scale_gradient) {
    parallel(kernels.element_wise ? kernels.elements : kernels.gradient, work, units, unit_size);
  }
  if (out.row_gradient) sum_rows(call.logits_dtype, rows, call.rows, out.row_gradient);
  if (out.scale_gradient) sum_rows(call.logits_dtype, scales, call.rows, out.scale_gradient);
}

struct CpuEngine {
  static LossShape shape_of(const std::string& loss, const Tensor& logits) {
    const Kernels kernels = program_of(loss, logits).kernels;
    return {kernels.element_wise, kernels.statistics - kernels.late_sums, kernels.late_sums, kernels.coefficients};
  }
  static void forward(const std::string& loss, const Call& call, const ForwardOutputs& out, const Tensor& logits) {
    run_forward(program_of(loss, logits), call, out);
  }
  static void backward(const std::string& loss, const Call& call, const BackwardOutputs& out, const Tensor& logits) {
    run_backward(program_of(loss, logits), call, out);
  }
  static void statistics(const std::string& loss, const Call& call, double* out, const Tensor& logits) {
    run_statistics(program_of(loss, logits), call, out);
  }
  static void late(const std::string& loss, const Call& call, const double* statistics, double* out,
                   const Tensor& logits) {
    run_late(program_of(loss, logits), call, statistics, out);
  }
  static void merge(const std::string& loss, const Parts& parts, double* out, const Tensor&) {
    run_merge(program_of(loss, true), parts, out);
  }
  static void finish(const std::string& loss, const Call& call, const Parts& parts, const ForwardOutputs& out,
                     const Tensor&) {
    run_finish(program_of(loss, call.logits_dtype == DType::kDouble), call, parts, out);
  }
  static void scale(Tensor& gradient, const Tensor& grad_output) {
    const bool wide = gradient.scalar_type() == ScalarType::Double;
    const double factor = wide ? *static_cast<const double*>(grad_output.const_data_ptr())
                               : static_cast<double>(*static_cast<const float*>(grad_output.const_data_ptr()));
    if (factor == 1.0) return;
    const auto kernel = table().scale;
    const DType dtype = dtype_of(gradient);
    void* data = gradient.mutable_data_ptr();
    torch::stable::parallel_for(0, gradient.numel(), kElementsWorthAThread,
                                [&](int64_t begin, int64_t end) { kernel(dtype, data, factor, begin, end); });
  }
};

}  // namespace
}  // namespace mlloss

// For tests and `info`: makes `isa` (0 baseline, 1 x86-64-v3, 2 x86-64-v4) the one in use if it is built and this
// machine has it, and returns the one in use; -1 only returns it.
extern "C" __attribute__((visibility("default"))) int mlloss_cpu_isa(int isa) {
  if (mlloss::can_run(isa)) mlloss::active_isa() = isa;
  return mlloss::active_isa();
}

STABLE_TORCH_LIBRARY_IMPL(mlloss_cuda, CPU, m) { mlloss::Ops<mlloss::CpuEngine>::implement(m); }
