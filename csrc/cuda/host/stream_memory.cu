#include "../device/portability.cuh"
#include "kernels.h"

namespace mlloss {
namespace cuda {

static __device__ unsigned counters[kStreams][2];
static __device__ uint64_t packets[kPacketStreams][kStreamPackets];

cudaError_t zeros_of_stream(int number, Zeros* zeros) {
  void *first_counter = nullptr, *first_packet = nullptr;
  cudaError_t error = cudaGetSymbolAddress(&first_counter, counters);
  if (error == cudaSuccess) error = cudaGetSymbolAddress(&first_packet, packets);
  zeros->counters = static_cast<unsigned*>(first_counter) + 2 * number;
  zeros->packets = number < kPacketStreams ? static_cast<uint64_t*>(first_packet) + number * kStreamPackets : nullptr;
  return error;
}

}  // namespace cuda
}  // namespace mlloss
