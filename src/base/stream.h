// Where ops run: a queue of one device. Every op takes a Stream first; ops on one stream take effect in the
// order of their calls.
//
// On the CPU a queue is a thread pool and an instruction set, and an op is finished when its call returns. On
// an asynchronous device it is finished when synchronize() returns, so code that reads results on the host
// calls that first.
#pragma once

#include "base/device.h"
#include "base/error.h"
#include "base/instruction_set.h"
#include "base/op_profile.h"
#include "base/thread_pool.h"

namespace chorale {

class Stream {
 public:
  // Of the CPU. The pool, and the profile where there is one, must outlive the stream.
  Stream(ThreadPool& pool, InstructionSet isa, OpProfile* profile = nullptr)
      : pool_(&pool), isa_(isa), profile_(profile) {}
  // Of another device. The queue must outlive the stream.
  explicit Stream(Queue& queue, OpProfile* profile = nullptr)
      : device_(queue.device()), queue_(&queue), profile_(profile) {}

  const Device& device() const { return device_; }
  // The CPU's alone.
  ThreadPool& pool() const {
    CHORALE_CHECK(pool_ != nullptr, "a stream of {} has no thread pool", device_.name());
    return *pool_;
  }
  InstructionSet instruction_set() const { return isa_; }
  // Of a device other than the CPU.
  Queue& queue() const {
    CHORALE_CHECK(queue_ != nullptr, "a stream of the CPU has no queue");
    return *queue_;
  }
  OpProfile* profile() const { return profile_; }  // null: nobody asks
  void synchronize() const {
    if (queue_ != nullptr) queue_->synchronize();
  }
  // As Queue has them; on the CPU every place has been reached.
  Event record() const { return queue_ != nullptr ? queue_->record() : Event(); }
  void wait(const Event& event) const {
    if (queue_ != nullptr) queue_->wait(event);
  }

 private:
  Device device_;
  ThreadPool* pool_ = nullptr;
  Queue* queue_ = nullptr;
  InstructionSet isa_ = InstructionSet::portable;
  OpProfile* profile_ = nullptr;
};

}  // namespace chorale
