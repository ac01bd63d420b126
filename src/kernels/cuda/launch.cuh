// How kernels are started: with programmatic dependent launch, so that the next kernel's blocks are in place
// when the last of this one's end.
//
// A kernel that is started so may run while those before it still do. It therefore calls wait_for_previous()
// first, in every thread and before any return, and until then touches no memory that another kernel writes
// or reads; weights, which none writes, may be fetched before. allow_next() lets the next kernel's blocks
// take their places; it publishes nothing.
#pragma once

#include "kernels/cuda/runtime.h"

namespace chorale::cuda {

__device__ __forceinline__ void wait_for_previous() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}
__device__ __forceinline__ void allow_next() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

struct LaunchShape {
  dim3 blocks;
  unsigned threads = 0;
  size_t shared_bytes = 0;  // dynamic; above 48 KB, the kernel's limit must have been raised
};

// Starts a kernel, which `name` names in errors. A grid without blocks is no work. The arguments take the
// types of the kernel's parameters.
template <typename... Parameters, typename... Arguments>
void launch(const Queue& queue, const char* name, void (*kernel)(Parameters...), const LaunchShape& shape,
            Arguments... arguments) {
  if (shape.blocks.x == 0 || shape.blocks.y == 0 || shape.blocks.z == 0) return;
  queue.enter();
  cudaLaunchAttribute dependent{};
  dependent.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  dependent.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = shape.blocks;
  config.blockDim = dim3(shape.threads);
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = queue.stream();
  config.attrs = &dependent;
  config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), name, queue.index());
}

inline unsigned blocks_for(int64_t items, int64_t per_block) {
  return static_cast<unsigned>((items + per_block - 1) / per_block);
}

}  // namespace chorale::cuda
