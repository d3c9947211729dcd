// The kernels for double logits.
#include "kernels.cuh"

namespace mlloss {

cuda::Table cuda::table_double() { return table_of<double>(); }

}  // namespace mlloss
