// Where ops run. Every op takes a Stream first; ops on one stream take effect in the order of their calls.
//
// On the CPU an op is finished when its call returns. On an asynchronous device it is finished when
// synchronize() returns, so code that reads results on the host calls that first.
#pragma once

#include "base/instruction_set.h"
#include "base/op_profile.h"
#include "base/thread_pool.h"

namespace chorale {

class Stream {
 public:
  // The pool, and the profile where there is one, must outlive the stream.
  Stream(ThreadPool& pool, InstructionSet isa, OpProfile* profile = nullptr)
      : pool_(&pool), isa_(isa), profile_(profile) {}

  ThreadPool& pool() const { return *pool_; }
  InstructionSet instruction_set() const { return isa_; }
  OpProfile* profile() const { return profile_; }  // null: nobody asks
  void synchronize() const {}                      // the CPU has nothing outstanding

 private:
  ThreadPool* pool_;
  InstructionSet isa_;
  OpProfile* profile_;
};

}  // namespace chorale
