#include "engine/local_runner.h"

#include <chrono>
#include <exception>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"

namespace chorale::engine {
namespace {

std::chrono::milliseconds to_milliseconds(double seconds) {
  return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000));
}

}  // namespace

LocalRunner::LocalRunner(const RunnerParts& parts)
    : ParallelRunner(parts),
      timeout_(parts.collective_timeout),
      traffic_(parts.plan.ranks.size()),
      runners_(parts.plan.ranks.size()) {
  const auto world = static_cast<int>(parts.plan.ranks.size());
  if (world == 1) {
    runners_[0] = std::make_unique<RankRunner>(parts_of(parts, 0, {}));
    return;
  }
  world_ = std::make_unique<comm::LocalWorld>(world, to_milliseconds(timeout_));
  busy_ = world;
  for (int rank = 0; rank < world; ++rank) {
    threads_.emplace_back([this, &parts, rank] { rank_loop(parts, rank); });
  }
  wait_for_ranks();  // until all are built: they read `parts`
}

LocalRunner::~LocalRunner() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  start_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void LocalRunner::forward(std::span<const StepPlan* const> plans) {
  CHORALE_CHECK(static_cast<int>(plans.size()) == dp_size_);
  ++num_steps_;
  run_ranks({.forward = plans, .sample = {}, .sampled = {}});
}

void LocalRunner::sample(std::span<const SamplePlan* const> plans, std::span<SampledStep> sampled) {
  CHORALE_CHECK(static_cast<int>(plans.size()) == dp_size_ && sampled.size() == plans.size());
  run_ranks({.forward = {}, .sample = plans, .sampled = sampled});
}

std::span<const float> LocalRunner::logits() {
  return as_span(runners_[0]->logits());
}

void LocalRunner::run_ranks(const Work& work) {
  if (threads_.empty()) return run_rank(0, work);
  {
    const std::lock_guard lock(mutex_);
    work_ = work;
    busy_ = static_cast<int>(threads_.size());
    ++num_works_;
  }
  start_.notify_all();
  wait_for_ranks();
}

void LocalRunner::wait_for_ranks() {
  std::unique_lock lock(mutex_);
  done_.wait(lock, [this] { return busy_ == 0 || failure_.has_value(); });
  if (!failure_) return;
  // The others hear of it in their next collective. One that hangs is not waited for.
  const auto grace = std::chrono::duration<double>(std::max(timeout_, 1.0));
  done_.wait_for(lock, grace, [this] { return busy_ == 0; });
  throw_error("rank {} failed: {}", failure_->rank, failure_->what);
}

void LocalRunner::record_failure(int rank, bool is_cause, const char* what) {
  const std::lock_guard lock(mutex_);
  if (!failure_ || (is_cause && !failure_->is_cause)) failure_ = Failure{rank, is_cause, what};
}

void LocalRunner::run_rank(int rank, const Work& work) {
  const auto dp_group = static_cast<size_t>(rank / tp_size_);
  RankRunner& runner = *runners_[static_cast<size_t>(rank)];
  if (!work.forward.empty()) {
    inject_fault(rank, num_steps_, runner);
    runner.forward(*work.forward[dp_group]);
  } else if (rank % tp_size_ == 0) {
    work.sampled[dp_group] = runner.sample(*work.sample[dp_group]);
  }
}

void LocalRunner::rank_loop(const RunnerParts& parts, int rank) {
  const auto guarded = [&](const auto& work) {
    try {
      work();
    } catch (const comm::CollectiveError& error) {
      record_failure(error.rank >= 0 ? error.rank : rank, false, error.what());
    } catch (const std::exception& error) {
      record_failure(rank, true, error.what());
      world_->fail(rank, error.what());
    }
    const std::lock_guard lock(mutex_);
    --busy_;
    done_.notify_all();
  };
  guarded([&] {
    const comm::Communicator world(world_->transport(rank), &traffic_[static_cast<size_t>(rank)]);
    const parallel::Topology& topology = parts.plan.ranks[static_cast<size_t>(rank)].topology;
    runners_[static_cast<size_t>(rank)] =
        std::make_unique<RankRunner>(parts_of(parts, rank, split_groups(world, topology)));
  });
  for (int64_t seen = 0;;) {
    Work work;
    {
      std::unique_lock lock(mutex_);
      start_.wait(lock, [&] { return stopping_ || num_works_ != seen; });
      if (stopping_) return;
      seen = num_works_;
      work = work_;
    }
    guarded([&] { run_rank(rank, work); });
  }
}

std::vector<std::vector<int64_t>> LocalRunner::expert_load_by_rank() const {
  std::vector<std::vector<int64_t>> by_rank(runners_.size());
  for (size_t rank = 0; rank < runners_.size(); ++rank) runners_[rank]->add_expert_load(by_rank[rank]);
  return by_rank;
}

std::vector<int64_t> LocalRunner::expert_load() {
  std::vector<int64_t> total;
  for (const auto& runner : runners_) runner->add_expert_load(total);
  return total;
}

}  // namespace chorale::engine
