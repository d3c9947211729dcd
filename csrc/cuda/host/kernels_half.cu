// The kernels for half logits.
#include "kernels.cuh"

namespace mlloss {

cuda::Table cuda::table_half() { return table_of<__half>(); }

}  // namespace mlloss
