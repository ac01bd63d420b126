#include "engine/token_constraint.h"

#include <utility>

#include "base/math.h"
#include "base/spin.h"

namespace chorale::engine {

MaskTask::MaskTask(std::unique_ptr<TokenConstraint> constraint, int64_t vocab_size)
    : constraint_(std::move(constraint)), mask_(static_cast<size_t>(ceil_div<int64_t>(vocab_size, 32))) {}

void MaskTask::run() {
  if (error_) return;
  if (token_) error_ = constraint_->accept(*token_);
  if (!error_) error_ = constraint_->next_mask(mask_);
}

MaskWorkers::MaskWorkers(int num_threads) {
  for (int i = 0; i < num_threads; ++i) threads_.emplace_back([this] { loop(); });
}

MaskWorkers::~MaskWorkers() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void MaskWorkers::start(const std::shared_ptr<MaskTask>& task, std::optional<int32_t> token) {
  bool sleeping = false;
  {
    const std::lock_guard lock(mutex_);
    CHORALE_CHECK(task->state_ == MaskTask::State::idle, "a mask is made already");
    task->token_ = token;
    task->state_ = MaskTask::State::queued;
    queue_.push_back(task);
    num_queued_.store(queue_.size(), std::memory_order_relaxed);
    more_come_.store(true, std::memory_order_relaxed);
    sleeping = num_sleeping_ > 0;
  }
  if (sleeping) wake_.notify_one();
}

void MaskWorkers::help(std::chrono::nanoseconds most) {
  const auto end = std::chrono::steady_clock::now() + most;
  more_come_.store(false, std::memory_order_relaxed);
  std::unique_lock lock(mutex_);
  while (!queue_.empty() && std::chrono::steady_clock::now() < end) run_next(lock);
}

void MaskWorkers::wait(MaskTask& task) {
  std::unique_lock lock(mutex_);
  if (task.state_ == MaskTask::State::queued) {
    // Its place in the queue stays, and will be passed over.
    task.state_ = MaskTask::State::running;
    lock.unlock();
    task.run();
    lock.lock();
    task.state_ = MaskTask::State::idle;
    return;
  }
  made_.wait(lock, [&] { return task.state_ == MaskTask::State::idle; });
}

void MaskWorkers::loop() {
  std::unique_lock lock(mutex_);
  for (;;) {
    await_tasks(lock);
    if (stopping_) return;
    run_next(lock);
  }
}

// The queue is not empty.
void MaskWorkers::run_next(std::unique_lock<std::mutex>& lock) {
  const std::shared_ptr<MaskTask> task = std::move(queue_.front());
  queue_.pop_front();
  num_queued_.store(queue_.size(), std::memory_order_relaxed);
  if (task->state_ != MaskTask::State::queued) return;
  task->state_ = MaskTask::State::running;
  lock.unlock();
  task->run();
  lock.lock();
  task->state_ = MaskTask::State::idle;
  made_.notify_all();
}

// While more are to come, they come a few microseconds apart: sooner than a thread falls asleep and is woken.
void MaskWorkers::await_tasks(std::unique_lock<std::mutex>& lock) {
  lock.unlock();
  for (int spin = 0; spin < kSpinsBeforeSleep; ++spin) {
    if (num_queued_.load(std::memory_order_relaxed) > 0 || !more_come_.load(std::memory_order_relaxed)) break;
    relax_processor();
  }
  lock.lock();
  ++num_sleeping_;
  wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
  --num_sleeping_;
}

}  // namespace chorale::engine
