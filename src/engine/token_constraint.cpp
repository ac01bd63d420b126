#include "engine/token_constraint.h"

#include <utility>

#include "base/math.h"

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
  {
    const std::lock_guard lock(mutex_);
    CHORALE_CHECK(task->state_ == MaskTask::State::idle, "a mask is made already");
    task->token_ = token;
    task->state_ = MaskTask::State::queued;
    queue_.push_back(task);
  }
  wake_.notify_one();
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
    wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (stopping_) return;
    const std::shared_ptr<MaskTask> task = std::move(queue_.front());
    queue_.pop_front();
    if (task->state_ != MaskTask::State::queued) continue;
    task->state_ = MaskTask::State::running;
    lock.unlock();
    task->run();
    lock.lock();
    task->state_ = MaskTask::State::idle;
    made_.notify_all();
  }
}

}  // namespace chorale::engine
