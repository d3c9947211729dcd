// The pybind11 module _C: what the libraries were built with, and the launch planner. No torch in it.
#include <pybind11/pybind11.h>

#include "core/launch_plan.h"

namespace py = pybind11;

namespace {

py::dict build_information() {
  py::dict information;
  information["compiler"] = MLLOSS_COMPILER;
  information["cpu"] = MLLOSS_ISAS;
  information["cuda"] = MLLOSS_CUDA_VERSION;  // nvcc's version, or empty
  information["cuda_architectures"] = MLLOSS_CUDA_ARCHITECTURES;
  return information;
}

// The plans of a forward and a backward pass on a well-known device of that capability: fields, and in
// words. `strategy` is a number of core/launch_plan.h; 0 leaves the choice to the planner.
py::dict launch_plan(int64_t rows, int64_t labels, const std::string& dtype, bool element_wise, bool gradient,
                     int capability, int strategy) {
  const mlloss::DType type = dtype == "float64"    ? mlloss::DType::kDouble
                             : dtype == "bfloat16" ? mlloss::DType::kBFloat16
                             : dtype == "float16"  ? mlloss::DType::kHalf
                                                   : mlloss::DType::kFloat;
  const mlloss::Problem problem{rows, labels, type, element_wise, gradient};
  const mlloss::DeviceFacts facts = mlloss::known_device(capability);
  const mlloss::LaunchPlan forward = mlloss::plan_forward(problem, facts, static_cast<mlloss::Strategy>(strategy));
  py::dict plan;
  plan["strategy"] = mlloss::name_of(forward.strategy);
  plan["threads"] = forward.threads;
  plan["blocks"] = forward.blocks;
  plan["shared_bytes"] = forward.shared_bytes;
  plan["vector_width"] = forward.vector_width;
  plan["tiles"] = forward.tiles;
  plan["reads"] = forward.reads;
  plan["forward"] = mlloss::describe(forward);
  plan["backward"] = mlloss::describe(mlloss::plan_backward(problem, facts));
  return plan;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.def("build_information", &build_information);
  m.def("launch_plan", &launch_plan, py::arg("rows"), py::arg("labels"), py::arg("dtype"), py::arg("element_wise"),
        py::arg("gradient"), py::arg("capability"), py::arg("strategy") = 0);
}
