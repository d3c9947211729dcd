// Copies from global to shared memory that pass by the registers (cp.async, sm_80 and later): many can be
// on their way at a thread, and no other thread knows of them until a barrier.
#pragma once

#include "portability.cuh"

namespace mlloss {
namespace cuda {

#ifdef CUEMU

template <int kBytes>
MLLOSS_DEVICE void copy_async(void* shared, const void* global) {
  cuemu::copy_async(shared, global, kBytes);
}
MLLOSS_DEVICE void commit_copies() { cuemu::commit_copies(); }
template <int kGroups>
MLLOSS_DEVICE void wait_copies() {
  cuemu::wait_copies(kGroups);
}

#else

// 16 bytes pass by the first-level cache too: nobody reads them twice from there.
template <int kBytes>
MLLOSS_DEVICE void copy_async(void* shared, const void* global) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16, "what the hardware copies");
  const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(global), "n"(kBytes) : "memory");
  }
}

// What this thread has started since the last commit is a group.
MLLOSS_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most kGroups of this thread's latest groups are on their way.
template <int kGroups>
MLLOSS_DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

#endif

}  // namespace cuda
}  // namespace mlloss
