// Multiplies a gradient by grad_output, in place. With a grad_output of 1, the launch reads no gradient.
#pragma once

#include "../device/vector_io.cuh"

namespace mlloss {
namespace cuda {

template <class In>
__global__ void scale(In* gradient, int64_t count, const Compute<In>* grad_output) {
  using T = Compute<In>;
  constexpr int V = kWidth<In>;
  const T factor = *grad_output;
  if (factor == T(1)) return;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  // The memory of a tensor need not start at a multiple of 16 bytes. Elements before the first such multiple are
  // processed one by one.
  const int64_t misplaced = static_cast<int64_t>(reinterpret_cast<uintptr_t>(gradient) % 16 / sizeof(In));
  const int64_t head = misplaced == 0 ? 0 : V - misplaced < count ? V - misplaced : count;
  const int64_t chunks = (count - head) / V;
  uint4* body = reinterpret_cast<uint4*>(gradient + head);
  for (int64_t i = first; i < chunks; i += step) {
    T x[V];
    unpack<In>(body[i], x);
#pragma unroll
    for (int j = 0; j < V; ++j) x[j] *= factor;
    store_once(body + i, pack<In>(x));
  }
  const int64_t tail = head + chunks * V;
  for (int64_t i = first; i < head + (count - tail); i += step) {
    In& x = gradient[i < head ? i : tail + (i - head)];
    x = narrow<In>(widen(x) * factor);
  }
}

}  // namespace cuda
}  // namespace mlloss
