// The kernels for float logits.
#include "kernels.cuh"

namespace mlloss {

cuda::Table cuda::table_float() { return table_of<float>(); }

}  // namespace mlloss
