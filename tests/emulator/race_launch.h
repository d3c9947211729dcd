// All that the race driver knows of how kernels are launched: csrc/cuda/register.cpp without torch.
// What changes there (plans, workspaces, the order of launches) changes here, and nowhere else in tests.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cuda/device_call.h"
#include "cuda/kernels.h"

namespace mlloss {
namespace race {

// Few blocks at a time, so that each takes several rows; little shared memory and L2, so that rows need
// clusters, and split passes several waves.
constexpr DeviceFacts kDevice{90, 1, 512, 64 << 10, 100 << 10};

struct Engine {
  cuda::Table table;
  const cuda::Kernels& kernels;
  Strategy wanted;

  std::vector<Grouping> groupings() const {
    if (kernels.element_wise) return {Grouping::kElement};
    if (!kernels.across_rows) return {Grouping::kSamples};
    return {Grouping::kSamples, Grouping::kMacro, Grouping::kMicro};
  }

  bool gets_wanted(const Call& call) const {
    return plan_forward(cuda::problem_of(call, true), kDevice, wanted).strategy == wanted;
  }

  static void check(cudaError_t error) {
    if (error == cudaSuccess) return;
    std::printf("launch error %d\n", static_cast<int>(error));
    std::exit(3);
  }

  void forward(const Call& call, const ForwardOutputs& out) const {
    const Problem of = cuda::problem_of(call, out.gradient != nullptr);
    const LaunchPlan plan = plan_forward(of, kDevice, wanted);
    const LaunchPlan down_rows = plan_down_rows(of, kDevice, static_cast<int>(chunk_width(call.logits_dtype)));
    const cuda::Launch to{plan, nullptr, &down_rows};
    const cuda::WorkspaceSizes sizes = kernels.workspace_of(to, call);
    std::vector<double> parts(out.total ? static_cast<size_t>(sizes.parts) : 0);
    std::vector<double> statistics(static_cast<size_t>(sizes.statistics_bytes + 7) / 8);
    std::vector<unsigned> counters(static_cast<size_t>(sizes.counters));
    check(kernels.forward(to, call, out, {parts.data(), statistics.data(), counters.data()}));
    for (const unsigned left : counters) {
      if (left != 0) check(cudaErrorUnknown);  // the next launch would count from there
    }
  }

  bool spans_parts(const Call& call) const { return !kernels.element_wise && call.grouping != Grouping::kMacro; }

  // The total, of all labels as the first of two parts; the other has none. `results`: kernels of the compute type.
  void parts(Call call, const cuda::Kernels& results, void* total) const {
    const LaunchPlan plan = plan_forward(cuda::problem_of(call, false), kDevice, Strategy::kSplit);
    const cuda::Launch to{plan, nullptr};
    const cuda::WorkspaceSizes sizes = kernels.workspace_of(to, call);
    const size_t groups = static_cast<size_t>(group_count(call)), count = static_cast<size_t>(kernels.statistics);
    std::vector<double> memory(static_cast<size_t>(sizes.statistics_bytes + 7) / 8);
    std::vector<double> coefficients(groups * static_cast<size_t>(kernels.coefficients)), values(groups);
    std::vector<double> statistics(2 * groups * count), known(groups * count);
    std::vector<double> late(2 * groups * static_cast<size_t>(kernels.late_sums));
    std::vector<unsigned> counters(static_cast<size_t>(sizes.counters));
    const cuda::Workspace work{nullptr, memory.data(), counters.data()};
    check(kernels.statistics_of(to, call, coefficients.data(), work, statistics.data()));
    Parts parts{2, group_count(call), statistics.data(), nullptr};
    if (kernels.late_of) {
      check(cuda::table_double().losses[&kernels - table.losses].merge(nullptr, parts, known.data()));
      check(kernels.late_of(to, call, known.data(), coefficients.data(), work, late.data()));
      parts.late = late.data();
    }
    if (crosses_rows(call)) call.sample_weight = nullptr;
    ForwardOutputs out{};
    out.total = total;
    out.coefficients = coefficients.data();
    check(results.finish(nullptr, call, parts, out, {values.data(), nullptr, counters.data()}));
    for (const unsigned left : counters) {
      if (left != 0) check(cudaErrorUnknown);
    }
  }

  // Labels first: in place, the rows' pass overwrites the logits.
  void backward(const Call& call, const BackwardOutputs& out) const {
    const LaunchPlan down_rows = plan_down_rows(cuda::problem_of(call, true), kDevice, 1);
    std::vector<double> labels(static_cast<size_t>(down_rows.tiles * call.labels));
    check(kernels.label_gradient({down_rows, nullptr}, call, out, labels.data()));
    check(table.sum_each(nullptr, labels.data(), call.labels, 1, down_rows.tiles, call.labels, out.label_gradient));

    const LaunchPlan plan = plan_backward(cuda::problem_of(call, true), kDevice);
    std::vector<double> rows(static_cast<size_t>(call.rows * plan.tiles)), scales(rows.size());
    check(kernels.backward({plan, nullptr}, call, out, rows.data(), scales.data()));
    check(table.sum_each(nullptr, rows.data(), call.rows, plan.tiles, plan.tiles, 1, out.row_gradient));
    check(table.sum_each(nullptr, scales.data(), call.rows, plan.tiles, plan.tiles, 1, out.scale_gradient));
  }

  void scale(void* gradient, int64_t count, const void* grad_output) const {
    check(table.scale(nullptr, kDevice, gradient, count, grad_output));
  }
};

}  // namespace race
}  // namespace mlloss
