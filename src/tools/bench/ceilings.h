// What this machine can do at most, measured: the ceilings that benchmarks are compared with.
#pragma once

#include <memory>

#include "base/device.h"
#include "base/instruction_set.h"
#include "base/tensor.h"
#include "base/thread_pool.h"
#include "kernels/weight_format.h"

namespace chorale::bench {

// Bytes per second that all threads together read from a buffer: one larger than any cache, or of so many
// bytes, at least a mebibyte for each thread. The best of a few passes.
class ReadBandwidth {
 public:
  ReadBandwidth();
  explicit ReadBandwidth(uint64_t bytes);
  double measure(ThreadPool& pool) const;

 private:
  Buffer buffer_;
};

// Bytes per second that a device other than the CPU moves when it copies within its memory, read and written
// ones together: what its memory can do at most, but for a few percent. The best of a few passes.
class CopyBandwidth {
 public:
  explicit CopyBandwidth(const Device& device);
  double measure() const;

 private:
  std::unique_ptr<Queue> queue_;
  Buffer source_, target_;
};

// Operations per second (a multiplication and an addition are two) of the instruction that the matrix
// products of weights in this format use, on all threads, with everything in registers.
double peak_operations(ThreadPool& pool, InstructionSet isa, WeightFormat format);

}  // namespace chorale::bench
