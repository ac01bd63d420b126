// What this machine can do at most, measured: the ceilings that benchmarks are compared with.
#pragma once

#include "base/instruction_set.h"
#include "base/tensor.h"
#include "base/thread_pool.h"
#include "kernels/weight_format.h"

namespace chorale::bench {

// Bytes per second that all threads together read from a buffer larger than any cache. The best of a few
// passes.
class ReadBandwidth {
 public:
  ReadBandwidth();
  double measure(ThreadPool& pool) const;

 private:
  Buffer buffer_;
};

// Operations per second (a multiplication and an addition are two) of the instruction that the matrix
// products of weights in this format use, on all threads, with everything in registers.
double peak_operations(ThreadPool& pool, InstructionSet isa, WeightFormat format);

}  // namespace chorale::bench
