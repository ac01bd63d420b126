// A group of ranks that exchange data, as a value: copies speak for the same group and the same rank.
//
// Every rank of the group calls the same operations in the same order. A failed operation is fatal and names
// the rank. A group of one is the identity, so code that is written for ranks runs on one. Not thread-safe: a
// rank uses its communicators from one thread.
#pragma once

#include "base/stream.h"
#include "base/tensor.h"

namespace chorale::comm {

class Communicator {
 public:
  // The group of one.
  Communicator() = default;

  int size() const { return 1; }
  int rank() const { return 0; }

  // sums[i] = the sum over all ranks, on every rank. sums: int64 [T, N]. Integer sums are exact, so neither
  // the order nor the transport shows in the result.
  void all_reduce_sum(const Stream&, const Tensor&) const {}
};

}  // namespace chorale::comm
