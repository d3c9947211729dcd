// The pybind11 module _C: what the libraries were built with, and the launch planner. No torch in it.
#include <pybind11/pybind11.h>

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

}  // namespace

PYBIND11_MODULE(_C, m) { m.def("build_information", &build_information); }
