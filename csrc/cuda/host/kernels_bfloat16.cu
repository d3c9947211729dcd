// The kernels for bfloat16 logits.
#include "kernels.cuh"

namespace mlloss {

cuda::Table cuda::table_bfloat16() { return table_of<__nv_bfloat16>(); }

}  // namespace mlloss
