#include "server/http/work_queue.h"

#include <algorithm>

namespace chorale::server {
namespace {

// More is large: some milliseconds of tokenizing.
constexpr uint64_t kSmallBytes = 64U << 10;
// How much longer large work waits than what came at the same time: about what it takes.
constexpr int64_t kNanosecondsPerByte = 1000;

}  // namespace

WorkQueue::WorkQueue(int num_threads, size_t max_waiting)
    : max_waiting_(max_waiting), max_large_(std::max(1, num_threads / 2)) {
  for (int i = 0; i < num_threads; ++i) threads_.emplace_back([this] { loop(); });
}

WorkQueue::~WorkQueue() {
  stop();
}

void WorkQueue::stop() {
  Waiting small;
  Waiting large;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    small.swap(small_);
    large.swap(large_);
    places_.clear();
  }
  wake_.notify_all();
  small.clear();  // before what has begun ends
  large.clear();
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

std::optional<WorkQueue::Id> WorkQueue::post(uint64_t bytes, std::function<void()> work) {
  const bool is_large = bytes > kSmallBytes;
  Id id = 0;
  {
    const std::lock_guard lock(mutex_);
    if (places_.size() >= max_waiting_) return std::nullopt;
    id = next_id_++;
    if (stopping_) return id;
    const int64_t wait = is_large ? static_cast<int64_t>(bytes) * kNanosecondsPerByte : 0;
    const Place place{Clock::now() + std::chrono::nanoseconds(wait), id};
    places_.emplace(id, place);
    (is_large ? large_ : small_).emplace(place, std::move(work));
  }
  wake_.notify_one();
  return id;
}

void WorkQueue::drop(Id id) {
  std::function<void()> dropped;  // ends without the lock: it holds what may be anything
  const std::lock_guard lock(mutex_);
  const auto place = places_.find(id);
  if (place == places_.end()) return;
  for (Waiting* waiting : {&small_, &large_}) {
    const auto found = waiting->find(place->second);
    if (found == waiting->end()) continue;
    dropped = std::move(found->second);
    waiting->erase(found);
  }
  places_.erase(place);
}

WorkQueue::Waiting* WorkQueue::next() {
  const bool may_be_large = !large_.empty() && large_running_ < max_large_;
  if (!may_be_large) return small_.empty() ? nullptr : &small_;
  if (small_.empty()) return &large_;
  return large_.begin()->first < small_.begin()->first ? &large_ : &small_;
}

void WorkQueue::loop() {
  std::unique_lock lock(mutex_);
  for (;;) {
    Waiting* waiting = nullptr;
    wake_.wait(lock, [&] { return stopping_ || (waiting = next()) != nullptr; });
    if (stopping_) return;
    const bool is_large = waiting == &large_;
    std::function<void()> work = std::move(waiting->begin()->second);
    places_.erase(waiting->begin()->first.second);
    waiting->erase(waiting->begin());
    large_running_ += is_large ? 1 : 0;
    lock.unlock();
    work();
    work = nullptr;
    lock.lock();
    large_running_ -= is_large ? 1 : 0;
  }
}

}  // namespace chorale::server
