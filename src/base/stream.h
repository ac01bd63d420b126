// Where ops run. Every op takes a Stream first; ops on one stream take effect in the order of their calls.
//
// On the CPU an op is finished when its call returns. On an asynchronous device it is finished when
// synchronize() returns, so code that reads results on the host calls that first.
#pragma once

#include "base/instruction_set.h"
#include "base/thread_pool.h"

namespace chorale {

class Stream {
 public:
  // The pool must outlive the stream.
  Stream(ThreadPool& pool, InstructionSet isa) : pool_(&pool), isa_(isa) {}

  ThreadPool& pool() const { return *pool_; }
  InstructionSet instruction_set() const { return isa_; }
  void synchronize() const {}  // the CPU has nothing outstanding

 private:
  ThreadPool* pool_;
  InstructionSet isa_;
};

}  // namespace chorale
