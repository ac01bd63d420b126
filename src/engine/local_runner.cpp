#include "engine/local_runner.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <utility>

#include "base/error.h"
#include "engine/kv_moves.h"

namespace chorale::engine {
namespace {

std::chrono::milliseconds to_milliseconds(double seconds) {
  return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000));
}

}  // namespace

LocalRunner::LocalRunner(const RunnerParts& parts)
    : ParallelRunner(parts),
      parts_(parts),
      timeout_(parts.collective_timeout),
      runs_ahead_(parts.devices[0].is_asynchronous()),
      traffic_(parts.plan.ranks.size()),
      runners_(parts.plan.ranks.size()),
      sampled_(static_cast<size_t>(dp_size_)),
      num_done_(parts.plan.ranks.size(), -1) {
  const auto world = static_cast<int>(parts.plan.ranks.size());
  if (world == 1) {
    runners_[0] = std::make_unique<RankRunner>(parts_of(parts, 0, {}));
    return;
  }
  world_ = std::make_unique<comm::LocalWorld>(world, to_milliseconds(timeout_));
  std::vector<Device> devices;
  for (int rank = 0; rank < world; ++rank) devices.push_back(parts_.device_of(rank));
  links_ = std::make_unique<comm::DeviceLinks>(parts_.collectives, std::move(devices), *world_,
                                               to_milliseconds(timeout_));
  for (int rank = 0; rank < world; ++rank) {
    threads_.emplace_back([this, rank] { rank_loop(rank); });
  }
  wait_for_ranks(0);  // until all are built
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
  give({.forward = plans, .sample = {}, .step = ++num_steps_});
  if (!runs_ahead_) wait_for_ranks(num_given_);
}

void LocalRunner::start_sampling(std::span<const SamplePlan* const> plans) {
  CHORALE_CHECK(static_cast<int>(plans.size()) == dp_size_);
  give({.forward = {}, .sample = plans, .step = num_steps_});
  last_sampling_ = num_given_;
}

void LocalRunner::collect(std::span<SampledStep> sampled) {
  CHORALE_CHECK(sampled.size() == sampled_.size());
  if (threads_.empty()) {
    sampled[0] = runners_[0]->collect();
    return;
  }
  wait_for_ranks(last_sampling_);
  std::ranges::copy(sampled_, sampled.begin());
}

std::span<const float> LocalRunner::logits() {
  wait_for_ranks(num_given_);
  return as_span(runners_[0]->logits());
}

void LocalRunner::synchronize() {
  wait_for_ranks(num_given_);
  for (const auto& runner : runners_) runner->synchronize();
}

// Each rank does what is given in its order. At most kMaxGiven works are not done.
void LocalRunner::give(const Work& work) {
  if (threads_.empty()) return run_rank(0, work);
  wait_for_ranks(num_given_ + 1 - kMaxGiven);
  {
    const std::lock_guard lock(mutex_);
    works_[static_cast<size_t>(++num_given_ % kMaxGiven)] = work;
  }
  start_.notify_all();
}

// Under mutex_.
bool LocalRunner::has_done(int64_t works) const {
  return std::ranges::all_of(num_done_, [&](int64_t done) { return done >= works; });
}

// Until the first of all works are done, so many.
void LocalRunner::wait_for_ranks(int64_t works) {
  if (threads_.empty()) return;
  std::unique_lock lock(mutex_);
  done_.wait(lock, [&] { return failure_.has_value() || has_done(works); });
  if (!failure_) return;
  // The others hear of it in their next collective. One that hangs is not waited for.
  const auto grace = std::chrono::duration<double>(std::max(timeout_, 1.0));
  done_.wait_for(lock, grace, [&] { return has_done(works); });
  throw_error("rank {} failed: {}", failure_->rank, failure_->what);
}

void LocalRunner::record_failure(int rank, bool is_cause, const char* what) {
  links_->end();  // whoever waits for this rank on a device
  const std::lock_guard lock(mutex_);
  if (!failure_ || (is_cause && !failure_->is_cause)) failure_ = Failure{rank, is_cause, what};
}

void LocalRunner::run_rank(int rank, const Work& work) {
  const auto dp_group = static_cast<size_t>(rank / tp_size_);
  RankRunner& runner = *runners_[static_cast<size_t>(rank)];
  if (!work.forward.empty()) {
    inject_fault(rank, work.step, runner);
    runner.forward(*work.forward[dp_group], most_tokens(work.forward));
    return;
  }
  if (work.transfer != nullptr) return copy_to_rank(rank, *work.transfer);
  if (rank % tp_size_ != 0) return;
  runner.start_sampling(*work.sample[dp_group]);
  if (!threads_.empty()) sampled_[dp_group] = runner.collect();
}

void LocalRunner::rank_loop(int rank) {
  int64_t& done = num_done_[static_cast<size_t>(rank)];
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
    ++done;
    done_.notify_all();
  };
  guarded([&] {
    comm::DeviceLink link = links_->make(rank);
    const comm::Communicator world(std::move(link.transport), &traffic_[static_cast<size_t>(rank)]);
    const parallel::Topology& topology = parts_.plan.ranks[static_cast<size_t>(rank)].topology;
    RankRunner::Parts parts = parts_of(parts_, rank, split_groups(world, topology));
    parts.watch = std::move(link.watch);
    parts.traffic = &traffic_[static_cast<size_t>(rank)];
    runners_[static_cast<size_t>(rank)] = std::make_unique<RankRunner>(std::move(parts));
  });
  for (;;) {
    std::optional<Work> work;
    {
      std::unique_lock lock(mutex_);
      start_.wait(lock, [&] { return stopping_ || num_given_ > done; });
      if (stopping_) return;
      // What was given behind a work that has failed builds on it.
      if (!failure_) work = works_[static_cast<size_t>((done + 1) % kMaxGiven)];
    }
    guarded([&] {
      if (work) run_rank(rank, *work);
    });
  }
}

std::vector<std::vector<int64_t>> LocalRunner::expert_load_by_rank() const {
  std::vector<std::vector<int64_t>> by_rank(runners_.size());
  for (size_t rank = 0; rank < runners_.size(); ++rank) runners_[rank]->add_expert_load(by_rank[rank]);
  return by_rank;
}

std::vector<int64_t> LocalRunner::expert_load() {
  wait_for_ranks(num_given_);  // the streams are theirs until then
  std::vector<int64_t> total;
  for (const auto& runner : runners_) runner->add_expert_load(total);
  return total;
}

const parallel::ExpertPlacement* LocalRunner::movable_experts() const {
  return parts_.plan.experts_can_move() ? &parts_.plan.placement : nullptr;
}

// All ranks share the weights, so a rank's experts are other views of them.
uint64_t LocalRunner::place_experts(int layer, const parallel::ExpertPlacement& placement) {
  CHORALE_CHECK(parts_.plan.tokens_travel() && placement.shape() == parts_.plan.placement.shape());
  wait_for_ranks(num_given_);  // the streams are theirs until then
  const auto slots = static_cast<size_t>(placement.slots_per_rank());
  const StoredWeights& stored = parts_.stored_of(0);
  for (size_t rank = 0; rank < runners_.size(); ++rank) {
    const RankPart& part = parts_.plan.ranks[rank];
    const auto owner = static_cast<size_t>(part.topology.moe_expert_parallel_rank());
    const auto experts = placement.physical_to_logical(layer).subspan(owner * slots, slots);
    model::DispatchOptions dispatch = parts_.plan.dispatch;
    dispatch.num_variants = runners_[rank]->num_slot_variants(layer);
    runners_[rank]->place_experts(
        layer, model::select_layer_experts(stored.weights, stored.shard, part.shard, layer, experts),
        model::expert_slots_of(part.topology, placement, layer, dispatch));
  }
  return 0;
}

uint64_t LocalRunner::copy_kv(ModelRunner& from, std::span<const KvBlockMove> moves) {
  auto* const source = dynamic_cast<LocalRunner*>(&from);
  CHORALE_CHECK(source != nullptr && source != this, "caches of ranks of another kind");
  source->synchronize();
  const KvTransfer transfer{source, moves};
  give({.forward = {}, .sample = {}, .transfer = &transfer, .step = num_steps_});
  wait_for_ranks(num_given_);
  return bytes_of_moves(parts_.config, parts_.plan, parts_.kv_dtype, parts_.device_kind(), moves);
}

void LocalRunner::copy_to_rank(int rank, const KvTransfer& transfer) {
  const LocalRunner& from = *transfer.from;
  std::vector<RankRunner::KvPiece> pieces;
  for (const KvHeads& heads : heads_for(rank, parts_.config, from.parts_.plan, parts_.plan, transfer.moves)) {
    pieces.push_back({from.runners_[static_cast<size_t>(heads.from_rank)].get(), heads});
  }
  runners_[static_cast<size_t>(rank)]->copy_kv(pieces);
}

}  // namespace chorale::engine
