// The pybind11 module _C: build information and the launch planner. It does not use torch.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <utility>
#include <vector>

#include "core/launch_plan.h"
#include "losses/compounds.h"

namespace py = pybind11;

namespace {

py::dict build_information() {
  py::dict information;
  information["compiler"] = MLLOSS_COMPILER;
  information["cpu"] = MLLOSS_ISAS;
  information["cuda"] = MLLOSS_CUDA_VERSION;  // the version of nvcc, or empty
  information["cuda_architectures"] = MLLOSS_CUDA_ARCHITECTURES;
  return information;
}

mlloss::DType dtype_named(const std::string& name) {
  using mlloss::DType;
  constexpr std::pair<const char*, DType> kNames[] = {
      {"bool", DType::kBool},     {"uint8", DType::kUInt8},   {"int8", DType::kInt8},    {"int16", DType::kInt16},
      {"int32", DType::kInt32},   {"int64", DType::kInt64},   {"float16", DType::kHalf}, {"bfloat16", DType::kBFloat16},
      {"float32", DType::kFloat}, {"float64", DType::kDouble}};
  for (const auto& [known, dtype] : kNames) {
    if (name == known) return dtype;
  }
  throw py::value_error("dtype: " + name + " is not supported by the kernels");
}

mlloss::Grouping grouping_named(const std::string& name) {
  using mlloss::Grouping;
  if (name == "element") return Grouping::kElement;
  if (name == "samples") return Grouping::kSamples;
  if (name == "macro") return Grouping::kMacro;
  if (name == "micro") return Grouping::kMicro;
  throw py::value_error("grouping: " + name + " is not element, samples, macro or micro");
}

// Returns the plans of a forward and a backward pass on a well-known device of that compute capability, as fields and
// in words. `targets` is a dtype or "csr". `strategy` is a number of core/launch_plan.h; 0 leaves the choice to the
// planner. `row_resident` (`held` in Python) is true for a loss with resident and cluster kernels; sums of losses have
// none.
py::dict launch_plan(int64_t rows, int64_t labels, const std::string& dtype, const std::string& grouping,
                     const std::string& targets, bool gradient, int capability, int strategy, bool row_resident) {
  mlloss::Problem problem{rows, labels, dtype_named(dtype), grouping_named(grouping), gradient};
  problem.row_resident = row_resident;
  if (targets != "csr") problem.target_bytes = mlloss::staged_target_bytes(problem.dtype, dtype_named(targets));
  const mlloss::DeviceFacts facts = mlloss::known_device(capability);
  const mlloss::LaunchPlan forward = mlloss::plan_forward(problem, facts, static_cast<mlloss::Strategy>(strategy));
  py::dict plan;
  plan["strategy"] = mlloss::name_of(forward.strategy);
  plan["threads"] = forward.threads;
  plan["blocks"] = forward.blocks;
  plan["shared_bytes"] = forward.shared_bytes;
  plan["vector_width"] = forward.vector_width;
  plan["tiles"] = forward.tiles;
  plan["cluster"] = forward.cluster;
  plan["rows_per_wave"] = forward.rows_per_wave;
  plan["reads"] = forward.reads;
  plan["forward"] = mlloss::describe(forward);
  plan["backward"] = mlloss::describe(mlloss::plan_backward(problem, facts));
  return plan;
}

// Returns the sums of losses that the CUDA library runs in one pass.
std::vector<std::string> compounds() {
#define MLLOSS_NAME(name, Functor) name,
  return {MLLOSS_FOR_EACH_COMPOUND(MLLOSS_NAME)};
#undef MLLOSS_NAME
}

// Returns the strategies that a caller may force, by their number.
py::dict strategies() {
  py::dict names;
  for (const mlloss::Strategy strategy : mlloss::kStrategies) {
    names[mlloss::name_of(strategy)] = static_cast<int>(strategy);
  }
  return names;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.def("build_information", &build_information);
  m.def("launch_plan", &launch_plan, py::arg("rows"), py::arg("labels"), py::arg("dtype"),
        py::arg("grouping") = "samples", py::arg("targets") = "bool", py::arg("gradient") = true,
        py::arg("capability") = 90, py::arg("strategy") = 0, py::arg("held") = true);
  m.def("compounds", &compounds);
  m.def("strategies", &strategies);
}
