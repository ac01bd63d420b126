#include "engine/mpi_runner.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/error.h"

namespace chorale::engine {
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
      sample_plans_(plans_.size()),
      num_rows_(plans_.size()),
      sampled_(plans_.size()) {
  const parallel::Topology& topology = parts.plan.ranks[static_cast<size_t>(rank_)].topology;
  runner_ = std::make_unique<RankRunner>(parts_of(parts, rank_, split_groups(world_, topology)));
  for (const SamplePlan& plan : sample_plans_) sample_pointers_.push_back(&plan);
}

MpiRunner::~MpiRunner() {
  if (rank_ != 0 || failed_) return;
  try {
    announce({.work = Work::stop});
  } catch (const comm::CollectiveError&) {
    // A rank that is gone need not be told.
  }
}

// What rank 0 does with the others.
template <typename Drive>
void MpiRunner::drive(const Drive& drive) {
  CHORALE_CHECK(rank_ == 0);
  try {
    drive();
  } catch (const comm::CollectiveError& error) {
    failed_ = true;
    throw Error(error.what());
  } catch (const std::exception& error) {
    failed_ = true;
    mpi_.fail(rank_, error.what());
    throw;
  }
}

void MpiRunner::forward(std::span<const StepPlan* const> plans) {
  CHORALE_CHECK(static_cast<int>(plans.size()) == dp_size_);
  drive([&] {
    write_step(plans, message_);
    announce({Work::forward, static_cast<int64_t>(message_.size() * sizeof(int32_t))});
    broadcast_message(world_);
    forward_own(*plans[0]);
  });
}

void MpiRunner::start_sampling(std::span<const SamplePlan* const> plans) {
  CHORALE_CHECK(static_cast<int>(plans.size()) == dp_size_);
  drive([&] {
    if (dp_size_ == 1) {
      runner_->start_sampling(*plans[0]);
      own_ = runner_->collect();
      return;
    }
    write_sampling(plans, message_);
    announce({Work::sample, static_cast<int64_t>(message_.size() * sizeof(int32_t))});
    broadcast_message(leaders_);
    sample_own(plans);
  });
}

void MpiRunner::collect(std::span<SampledStep> sampled) {
  CHORALE_CHECK(rank_ == 0 && sampled.size() == sampled_.size());
  for (size_t g = 0; g < sampled.size(); ++g) sampled[g] = dp_size_ == 1 ? own_ : sampled_[g].view();
}

std::span<const float> MpiRunner::logits() {
  CHORALE_CHECK(rank_ == 0);
  return as_span(runner_->logits());
}

void MpiRunner::announce(const Announcement& announcement) {
  Announcement sent = announcement;
  world_.broadcast(stream_, std::as_writable_bytes(std::span(&sent, 1)), 0, comm::Purpose::control);
}

void MpiRunner::broadcast_message(const comm::Communicator& group) {
  group.broadcast(stream_, std::as_writable_bytes(std::span(message_)), 0, comm::Purpose::control);
}

std::vector<int64_t> MpiRunner::expert_load() {
  CHORALE_CHECK(rank_ == 0);
  if (failed_) return {};
  try {
    announce({.work = Work::expert_load});
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

void MpiRunner::forward_own(const StepPlan& plan) {
  inject_fault(rank_, ++num_steps_, *runner_);
  runner_->forward(plan);
}

// On the first ranks of all groups: samples the group's rows, and brings what came of all to rank 0.
void MpiRunner::sample_own(std::span<const SamplePlan* const> plans) {
  int64_t most = -1, total = 0;
  for (size_t g = 0; g < plans.size(); ++g) {
    most = std::max(most, plans[g]->most_alternatives());
    total += num_rows_[g] = plans[g]->num_rows();
  }
  const auto group = static_cast<size_t>(dp_group_);
  runner_->start_sampling(*plans[group]);
  own_ = runner_->collect();
  write_sampled(own_, most, own_rows_);
  const int64_t columns = sampled_columns(most);
  if (rank_ == 0) gathered_rows_.resize(static_cast<size_t>(total * columns));
  const Tensor own(own_rows_.data(), DType::i32, num_rows_[group], columns, columns);
  const Tensor all =
      rank_ == 0 ? Tensor(gathered_rows_.data(), DType::i32, total, columns, columns) : Tensor();
  leaders_.gather_rows(stream_, own, num_rows_, all, 0, comm::Purpose::control);
  if (rank_ != 0) return;
  std::span<const int32_t> rest = gathered_rows_;
  for (size_t g = 0; g < plans.size(); ++g) {
    const auto size = static_cast<size_t>(num_rows_[g] * columns);
    read_sampled(rest.first(size), most, sampled_[g]);
    rest = rest.subspan(size);
  }
}

void MpiRunner::serve_steps() {
  CHORALE_CHECK(rank_ != 0);
  for (;;) {
    Announcement next;
    world_.await_broadcast(stream_, std::as_writable_bytes(std::span(&next, 1)), 0, comm::Purpose::control);
    message_.resize(static_cast<size_t>(next.bytes) / sizeof(int32_t));
    switch (next.work) {
      case Work::stop:
        return;
      case Work::expert_load:
        sum_expert_load();
        break;
      case Work::forward:
        broadcast_message(world_);
        read_step(message_, plans_);
        forward_own(plans_[static_cast<size_t>(dp_group_)]);
        break;
      case Work::sample:
        if (!is_leader_) break;
        broadcast_message(leaders_);
        read_sampling(message_, sample_plans_);
        sample_own(sample_pointers_);
        break;
    }
  }
}

std::optional<std::string> MpiRunner::failure() const {
  if (const std::optional<comm::CollectiveError> failure = mpi_.failure()) return failure->what();
  return std::nullopt;
}

}  // namespace chorale::engine
