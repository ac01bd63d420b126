// Constrained output: which tokens may come next, e.g. by a grammar. The engine asks for each token of a
// request that has a constraint.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "base/error.h"

namespace chorale::engine {

// The state of one output. Called by one thread at a time, but not always the same; must not throw. An error
// ends the request.
class TokenConstraint {
 public:
  virtual ~TokenConstraint() = default;
  // Sets bit t % 32 of word t / 32 for each token t that may come next, and clears the others. At least one
  // is left until the output is complete; then the end-of-sequence tokens are.
  virtual std::optional<RequestError> next_mask(std::span<uint32_t> mask) = 0;
  // The token that came; its bit was set.
  virtual std::optional<RequestError> accept(int32_t token) = 0;
};

// Makes the state of a new output; of each choice of a request its own.
using ConstraintFactory = std::function<std::unique_ptr<TokenConstraint>()>;

// The mask of one sequence's next token, which is made while the engine samples the tokens of others, or the
// model computes.
class MaskTask {
 public:
  MaskTask(std::unique_ptr<TokenConstraint> constraint, int64_t vocab_size);

  // After MaskWorkers::wait().
  std::span<const uint32_t> mask() const { return mask_; }
  const std::optional<RequestError>& error() const { return error_; }

 private:
  friend class MaskWorkers;
  enum class State { idle, queued, running };
  void run();

  std::unique_ptr<TokenConstraint> constraint_;
  std::vector<uint32_t> mask_;
  std::optional<RequestError> error_;
  std::optional<int32_t> token_;  // to be accepted first
  State state_ = State::idle;     // under the workers' mutex
};

// Threads that make masks while the engine's thread samples. What they have not begun when it is done, that
// thread takes over for a moment in help(), because a mask thread that takes a core from a thread of the
// forward pass makes all the others wait for it. Hard masks are made beside the forward pass. Thread-safe.
class MaskWorkers {
 public:
  // 0 threads: all masks are made by the engine's thread, in wait() at the latest.
  explicit MaskWorkers(int num_threads);
  ~MaskWorkers();
  MaskWorkers(const MaskWorkers&) = delete;
  MaskWorkers& operator=(const MaskWorkers&) = delete;

  // Makes the task's next mask, after `token` where there is one. The task is idle.
  void start(const std::shared_ptr<MaskTask>& task, std::optional<int32_t> token);
  // Makes on this thread what no other has begun, until nothing is left or the time is over.
  void help(std::chrono::nanoseconds most);
  // Returns when the mask is made; makes it on this thread when no other has begun to.
  void wait(MaskTask& task);

 private:
  void loop();
  void run_next(std::unique_lock<std::mutex>& lock);
  void await_tasks(std::unique_lock<std::mutex>& lock);

  std::mutex mutex_;
  std::condition_variable wake_, made_;
  std::deque<std::shared_ptr<MaskTask>> queue_;
  bool stopping_ = false;
  int num_sleeping_ = 0;
  // What a worker that spins looks at.
  std::atomic<bool> more_come_{false};
  std::atomic<size_t> num_queued_{0};
  std::vector<std::thread> threads_;
};

}  // namespace chorale::engine
