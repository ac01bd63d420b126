#include "engine/mpi_runner.h"

#include <array>
#include <numeric>

#include <fmt/format.h>

#include "base/error.h"
#include "engine/step_message.h"

namespace chorale::engine {
namespace {

// What rank 0 announces: the size of the next step's message in bytes, or one of these.
constexpr int64_t kStop = -1;
constexpr int64_t kExpertLoad = -2;

}  // namespace

MpiRunner::MpiRunner(const RunnerParts& parts, comm::MpiWorld& world)
    : ParallelRunner(parts),
      dp_group_(world.rank() / tp_size_),
      rank_(world.rank()),
      mpi_(world),
      stream_(pool_, InstructionSet::portable),
      world_(world.transport(), &traffic_),
      leaders_(world_.split(world.rank() % tp_size_ == 0 ? 0 : 1, world.rank())),
      is_leader_(world.rank() % tp_size_ == 0),
      plans_(static_cast<size_t>(dp_size_)),
      num_rows_(static_cast<size_t>(dp_size_)) {
  const parallel::Topology& topology = parts.plan.ranks[static_cast<size_t>(rank_)].topology;
  runner_ = std::make_unique<RankRunner>(parts_of(parts, rank_, split_groups(world_, topology)));
  if (rank_ == 0 && dp_size_ > 1) {
    gathered_ =
        Buffer(static_cast<size_t>(dp_size_ * parts.limits.max_logits_rows * vocab_size_) * sizeof(float));
  }
}

MpiRunner::~MpiRunner() {
  if (rank_ != 0 || failed_) return;
  try {
    announce(kStop);
  } catch (const comm::CollectiveError&) {
    // A rank that is gone need not be told.
  }
}

void MpiRunner::run_dp_groups(std::span<const StepPlan* const> plans,
                              std::span<std::span<const float>> logits) {
  CHORALE_CHECK(rank_ == 0 && static_cast<int>(plans.size()) == dp_size_ && logits.size() == plans.size());
  try {
    for (size_t g = 0; g < plans.size(); ++g)
      num_rows_[g] = static_cast<int64_t>(plans[g]->logits_tokens.size());
    broadcast_plans(plans);
    run_own(*plans[0], logits);
  } catch (const comm::CollectiveError& error) {
    failed_ = true;
    throw Error(error.what());
  } catch (const std::exception& error) {
    failed_ = true;
    mpi_.fail(rank_, error.what());
    throw;
  }
}

void MpiRunner::announce(int64_t what) {
  world_.broadcast(stream_, std::as_writable_bytes(std::span(&what, 1)), 0, comm::Purpose::control);
}

std::vector<int64_t> MpiRunner::expert_load() {
  CHORALE_CHECK(rank_ == 0);
  if (failed_) return {};
  try {
    announce(kExpertLoad);
    return sum_expert_load();
  } catch (const comm::CollectiveError& error) {
    failed_ = true;
    throw Error(error.what());
  }
}

// On all ranks.
std::vector<int64_t> MpiRunner::sum_expert_load() {
  std::vector<int64_t> load;
  runner_->add_expert_load(load);
  const auto size = static_cast<int64_t>(load.size());
  world_.all_reduce_sum(stream_, Tensor(load.data(), DType::i64, 1, size, size), comm::Purpose::control);
  return load;
}

void MpiRunner::broadcast_plans(std::span<const StepPlan* const> plans) {
  write_step(plans, message_);
  announce(static_cast<int64_t>(message_.size() * sizeof(int32_t)));
  world_.broadcast(stream_, std::as_writable_bytes(std::span(message_)), 0, comm::Purpose::control);
}

// Runs this rank's group, and brings the logits of all groups to rank 0.
void MpiRunner::run_own(const StepPlan& plan, std::span<std::span<const float>> logits) {
  inject_fault(rank_, ++num_steps_);
  const Tensor rows = runner_->run(plan);
  if (!is_leader_) return;
  if (dp_size_ == 1) {
    logits[0] = as_span(rows);
    return;
  }
  const int64_t total = std::accumulate(num_rows_.begin(), num_rows_.end(), int64_t{0});
  const Tensor all =
      rank_ == 0 ? Tensor(gathered_.data(), DType::f32, total, vocab_size_, vocab_size_) : Tensor();
  leaders_.gather_rows(stream_, rows, num_rows_, all, 0, comm::Purpose::logits);
  if (rank_ != 0) return;
  const float* next = total > 0 ? all.data<float>() : nullptr;
  for (size_t g = 0; g < logits.size(); ++g) {
    const auto size = static_cast<size_t>(num_rows_[g] * vocab_size_);
    logits[g] = size > 0 ? std::span(next, size) : std::span<const float>{};
    next += size;
  }
}

void MpiRunner::serve_steps() {
  CHORALE_CHECK(rank_ != 0);
  std::vector<std::span<const float>> logits(static_cast<size_t>(dp_size_));
  for (;;) {
    int64_t size = 0;
    world_.await_broadcast(stream_, std::as_writable_bytes(std::span(&size, 1)), 0, comm::Purpose::control);
    if (size == kStop) return;
    if (size == kExpertLoad) {
      sum_expert_load();
      continue;
    }
    message_.resize(static_cast<size_t>(size) / sizeof(int32_t));
    world_.broadcast(stream_, std::as_writable_bytes(std::span(message_)), 0, comm::Purpose::control);
    read_step(message_, plans_);
    for (size_t g = 0; g < plans_.size(); ++g)
      num_rows_[g] = static_cast<int64_t>(plans_[g].logits_tokens.size());
    run_own(plans_[static_cast<size_t>(dp_group_)], logits);
  }
}

std::optional<std::string> MpiRunner::failure() const {
  if (const std::optional<comm::CollectiveError> failure = mpi_.failure()) return failure->what();
  return std::nullopt;
}

}  // namespace chorale::engine
