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

mlloss::DeviceFacts device_of(int capability, const std::string& name) {
  if (name.empty()) return mlloss::known_device(capability);
  const mlloss::DeviceFacts* known = mlloss::known_device(name.c_str());
  if (!known) throw py::value_error("device: " + name + " is not a well-known device");
  return *known;
}

// Returns the plans of a forward and a backward pass on a well-known device, as fields and in words. The device is that
// of the compute capability, or the one of that name. `targets` is a dtype or "csr"; plans do not depend on it.
// `strategy` is a number of core/launch_types.h; 0 leaves the choice to the planner. `team_threads` is how many threads
// of the loss's team kernels a multiprocessor runs at once; 0 if it has none.
py::dict launch_plan(int64_t rows, int64_t labels, const std::string& dtype, const std::string& grouping,
                     const std::string& targets, bool gradient, int capability, int strategy, int team_threads,
                     const std::string& device) {
  if (targets != "csr") dtype_named(targets);
  mlloss::Problem problem{rows, labels, dtype_named(dtype), grouping_named(grouping), gradient};
  problem.team_threads_per_sm = team_threads;
  const mlloss::DeviceFacts facts = device_of(capability, device);
  const mlloss::LaunchPlan forward = mlloss::plan_forward(problem, facts, static_cast<mlloss::Strategy>(strategy));
  py::dict plan;
  plan["strategy"] = mlloss::name_of(forward.strategy);
  plan["threads"] = forward.threads;
  plan["blocks"] = forward.blocks;
  plan["shared_bytes"] = forward.shared_bytes;
  plan["vector_width"] = forward.vector_width;
  plan["tiles"] = forward.tiles;
  plan["chunks_per_tile"] = forward.chunks_per_tile;
  plan["chunks_per_warp"] = forward.chunks_per_warp;
  plan["team"] = forward.team;
  plan["rows_per_wave"] = forward.rows_per_wave;
  plan["reads"] = forward.reads;
  plan["fraction"] = forward.predicted.fraction;
  plan["bytes_in_flight"] = forward.predicted.bytes_in_flight;
  plan["bound"] = mlloss::name_of(forward.predicted.bound);
  plan["forward"] = mlloss::describe(forward);
  plan["backward"] = mlloss::describe(mlloss::plan_backward(problem, facts));
  return plan;
}

// Returns the facts of the well-known devices by their names.
py::dict known_devices() {
  py::dict devices;
  for (const mlloss::KnownDevice& known : mlloss::kKnownDevices) {
    py::dict facts;
    facts["capability"] = known.facts.capability;
    facts["sm_count"] = known.facts.sm_count;
    facts["threads_per_sm"] = known.facts.threads_per_sm;
    facts["shared_per_block"] = known.facts.shared_per_block;
    facts["l2_bytes"] = known.facts.l2_bytes;
    facts["bytes_per_ns"] = known.facts.bytes_per_ns;
    devices[known.facts.name] = facts;
  }
  return devices;
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
        py::arg("capability") = 90, py::arg("strategy") = 0, py::arg("team_threads") = mlloss::kTeamThreadsPerSm,
        py::arg("device") = "");
  m.def("known_devices", &known_devices);
  m.def("compounds", &compounds);
  m.def("strategies", &strategies);
}
