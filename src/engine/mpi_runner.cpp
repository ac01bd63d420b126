#include "engine/mpi_runner.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <thread>

#include "base/error.h"
#include "engine/kv_moves.h"
#include "model/kv_cache.h"

namespace chorale::engine {
namespace {

// Keys and values that are on their way at once, of all ranks.
constexpr int64_t kMovedBytes = int64_t{64} << 20;
constexpr std::chrono::milliseconds kPause{1};

}  // namespace

namespace {

std::unique_ptr<RankRunner> make_rank(const RunnerParts& own, const MpiParts& parts) {
  RankRunner::Parts rank = parts_of(own, parts.channel.rank(), parts.groups.ranks);
  rank.watch = parts.channel.watch();
  rank.traffic = &parts.channel.traffic();
  return std::make_unique<RankRunner>(std::move(rank));
}

}  // namespace

MpiRunner::MpiRunner(const MpiParts& parts)
    : ParallelRunner(parts.parts),
      parts_(parts.parts),
      channel_(parts.channel),
      rank_(channel_.rank()),
      dp_group_(rank_ / tp_size_),
      leaders_(parts.groups.leaders),
      is_leader_(rank_ % tp_size_ == 0),
      experts_(parts.stored, parts.source),
      runner_(make_rank(parts_, parts)),
      plans_(static_cast<size_t>(dp_size_)),
      sample_plans_(plans_.size()),
      num_rows_(plans_.size()),
      sampled_(plans_.size()),
      placement_(parts_.plan.placement) {
  for (const StepPlan& plan : plans_) plan_pointers_.push_back(&plan);
  for (const SamplePlan& plan : sample_plans_) sample_pointers_.push_back(&plan);
}

void MpiRunner::forward(std::span<const StepPlan* const> plans) {
  CHORALE_CHECK(static_cast<int>(plans.size()) == dp_size_);
  channel_.drive([&] {
    write_step(plans, message_);
    channel_.tell(RankWork::forward, message_);
    forward_own(*plans[0], most_tokens(plans));
  });
}

void MpiRunner::start_sampling(std::span<const SamplePlan* const> plans) {
  CHORALE_CHECK(static_cast<int>(plans.size()) == dp_size_);
  channel_.drive([&] {
    if (dp_size_ == 1) {
      runner_->start_sampling(*plans[0]);
      own_ = runner_->collect();
      return;
    }
    write_sampling(plans, message_);
    channel_.tell(RankWork::sample, message_, leaders_);
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

std::vector<int64_t> MpiRunner::expert_load() {
  if (channel_.failed()) return {};
  std::vector<int64_t> load;
  if (num_steps_ == 0) {
    runner_->add_expert_load(load);  // nothing yet, and the other processes may still run other ranks
    return load;
  }
  channel_.drive([&] {
    channel_.tell(RankWork::expert_load);
    load = sum_expert_load();
  });
  return load;
}

// On all ranks.
std::vector<int64_t> MpiRunner::sum_expert_load() {
  std::vector<int64_t> load;
  runner_->add_expert_load(load);
  const auto size = static_cast<int64_t>(load.size());
  channel_.world().all_reduce_sum(channel_.stream(), Tensor(load.data(), DType::i64, 1, size, size),
                                  comm::Purpose::control);
  return load;
}

void MpiRunner::forward_own(const StepPlan& plan, int64_t most_tokens) {
  inject_fault(rank_, ++num_steps_, *runner_);
  runner_->forward(plan, most_tokens);
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
  leaders_.gather_rows(channel_.stream(), own, num_rows_, all, 0, comm::Purpose::control);
  if (rank_ != 0) return;
  std::span<const int32_t> rest = gathered_rows_;
  for (size_t g = 0; g < plans.size(); ++g) {
    const auto size = static_cast<size_t>(num_rows_[g] * columns);
    read_sampled(rest.first(size), most, sampled_[g]);
    rest = rest.subspan(size);
  }
}

void MpiRunner::serve(const Announcement& announcement) {
  CHORALE_CHECK(rank_ != 0, "rank 0 serves");
  switch (announcement.work) {
    case RankWork::forward:
      channel_.receive(announcement, message_);
      read_step(message_, plans_);
      return forward_own(plans_[static_cast<size_t>(dp_group_)], most_tokens(plan_pointers_));
    case RankWork::sample:
      if (!is_leader_) return;
      channel_.receive(announcement, message_, leaders_);
      read_sampling(message_, sample_plans_);
      return sample_own(sample_pointers_);
    case RankWork::expert_load:
      sum_expert_load();
      return;
    case RankWork::fetch_experts:
      channel_.receive(announcement, layer_message_);
      return fetch_own(layer_message_);
    case RankWork::fetched_experts:
      channel_.gather(fetched_own());
      return;
    case RankWork::place_experts:
      channel_.receive(announcement, layer_message_);
      return place_own(layer_message_);
    default:
      CHORALE_CHECK(false, "work {} is not a runner's", static_cast<int64_t>(announcement.work));
  }
}

std::optional<std::string> MpiRunner::failure() const {
  if (const std::optional<comm::CollectiveError> failure = channel_.mpi().failure()) return failure->what();
  return std::nullopt;
}

// ---- experts that move ----

const parallel::ExpertPlacement* MpiRunner::movable_experts() const {
  return parts_.plan.experts_can_move() ? &parts_.plan.placement : nullptr;
}

void MpiRunner::write_layer(int layer, const parallel::ExpertPlacement& placement) {
  const std::span<const int32_t> slots = placement.physical_to_logical(layer);
  layer_message_.assign(1, layer);
  layer_message_.insert(layer_message_.end(), slots.begin(), slots.end());
}

bool MpiRunner::prepare_experts(int layer, const parallel::ExpertPlacement& placement) {
  CHORALE_CHECK(movable_experts() != nullptr && placement.shape() == placement_.shape());
  write_layer(layer, placement);
  if (layer_message_ == fetching_ && fetched_bytes_) return true;
  std::vector<Outcome> outcomes;
  channel_.drive([&] {
    if (layer_message_ != fetching_) {
      channel_.tell(RankWork::fetch_experts, layer_message_);
      fetch_own(layer_message_);
      fetching_ = layer_message_;
      fetched_bytes_.reset();
    }
    channel_.tell(RankWork::fetched_experts);
    outcomes = channel_.gather(fetched_own());
  });
  try {
    if (any_pending(outcomes)) return false;
  } catch (...) {
    fetching_.clear();
    throw;
  }
  uint64_t bytes = 0;
  for (const Outcome& outcome : outcomes) bytes += static_cast<uint64_t>(outcome.value);
  fetched_bytes_ = bytes;
  return true;
}

uint64_t MpiRunner::place_experts(int layer, const parallel::ExpertPlacement& placement) {
  while (!prepare_experts(layer, placement)) std::this_thread::sleep_for(kPause);
  channel_.drive([&] {
    channel_.tell(RankWork::place_experts, fetching_);
    place_own(fetching_);
  });
  fetching_.clear();
  return *fetched_bytes_;
}

namespace {

// The slots of an expert-parallel rank.
std::span<const int32_t> slots_of(const RankPart& part, const parallel::ExpertPlacement& placement,
                                  std::span<const int32_t> all) {
  const auto slots = static_cast<size_t>(placement.slots_per_rank());
  return all.subspan(static_cast<size_t>(part.topology.moe_expert_parallel_rank()) * slots, slots);
}

}  // namespace

void MpiRunner::fetch_own(std::span<const int32_t> layer_and_slots) {
  const RankPart& part = parts_.plan.ranks[static_cast<size_t>(rank_)];
  fetch_failure_.reset();
  try {
    experts_.fetch(layer_and_slots[0], slots_of(part, placement_, layer_and_slots.subspan(1)));
  } catch (const std::exception& error) {
    fetch_failure_ = error.what();
  }
}

Outcome MpiRunner::fetched_own() {
  if (fetch_failure_) return failed_outcome(*fetch_failure_);
  try {
    const std::optional<uint64_t> bytes = experts_.fetched();
    return {.state = bytes ? Outcome::State::done : Outcome::State::pending,
            .value = static_cast<int64_t>(bytes.value_or(0))};
  } catch (const std::exception& error) {
    return failed_outcome(error.what());
  }
}

void MpiRunner::place_own(std::span<const int32_t> layer_and_slots) {
  const int layer = layer_and_slots[0];
  const std::span<const int32_t> all = layer_and_slots.subspan(1);
  const RankPart& part = parts_.plan.ranks[static_cast<size_t>(rank_)];
  experts_.place();
  placement_ = placement_.with_slots(layer, all);
  model::DispatchOptions dispatch = parts_.plan.dispatch;
  dispatch.num_variants = runner_->num_slot_variants(layer);
  runner_->place_experts(
      layer,
      model::select_layer_experts(parts_.stored_of(rank_).weights, parts_.stored_of(rank_).shard, part.shard,
                                  layer, slots_of(part, placement_, all)),
      model::expert_slots_of(part.topology, placement_, layer, dispatch));
}

// ---- the caches of other ranks ----

uint64_t MpiRunner::copy_kv(ModelRunner& from, std::span<const KvBlockMove> moves) {
  auto* const source = dynamic_cast<MpiRunner*>(&from);
  CHORALE_CHECK(source != nullptr && source != this, "caches of ranks of another kind");
  channel_.drive([&] {
    message_.clear();
    for (const KvBlockMove& move : moves) {
      message_.insert(message_.end(), {move.from_group, move.from_block, move.to_group, move.to_block});
    }
    channel_.tell(RankWork::take_over, message_);
    take_kv(*source, message_);
  });
  return bytes_of_moves(parts_.config, parts_.plan, parts_.kv_dtype, parts_.device_kind(), moves);
}

void MpiRunner::take_kv(MpiRunner& from, std::span<const int32_t> numbers) {
  std::vector<KvBlockMove> moves;
  for (; !numbers.empty(); numbers = numbers.subspan(4)) {
    moves.push_back({numbers[0], numbers[1], numbers[2], numbers[3]});
  }
  const int64_t block_bytes = model::KvCache::block_bytes(parts_.config, parts_.config.num_key_value_heads,
                                                          parts_.kv_dtype, parts_.device_kind());
  const auto at_once = static_cast<size_t>(std::max<int64_t>(kMovedBytes / block_bytes, 1));
  for (std::span<const KvBlockMove> rest = moves; !rest.empty();) {
    const size_t count = std::min(rest.size(), at_once);
    exchange_kv(from, rest.first(count));
    rest = rest.subspan(count);
  }
}

// Heads that stay in this process are copied; all others go through the host's memory, those for one rank one
// after the other.
void MpiRunner::exchange_kv(MpiRunner& from, std::span<const KvBlockMove> moves) {
  const auto world = static_cast<size_t>(channel_.world().size());
  std::vector<KvHeads> sent;
  std::vector<int64_t> sent_rows(world), received_rows(world);
  std::vector<RankRunner::KvPiece> kept;
  std::vector<std::vector<KvHeads>> received_from(world);
  int64_t num_sent = 0, num_received = 0;
  for (int to = 0; to < static_cast<int>(world); ++to) {
    for (const KvHeads& heads : heads_for(to, parts_.config, from.parts_.plan, parts_.plan, moves)) {
      if (heads.from_rank == rank_ && to == rank_) {
        kept.push_back({from.runner_.get(), heads});
      } else if (heads.from_rank == rank_) {
        sent.push_back(heads);
        sent_rows[static_cast<size_t>(to)] += runner_->kv_rows(heads);
        num_sent += runner_->kv_rows(heads);
      } else if (to == rank_) {
        received_from[static_cast<size_t>(heads.from_rank)].push_back(heads);
        num_received += runner_->kv_rows(heads);
      }
    }
  }
  std::vector<KvHeads> received;
  for (const std::vector<KvHeads>& pieces : received_from) {
    received.insert(received.end(), pieces.begin(), pieces.end());
  }
  const int64_t bytes = runner_->kv_row_bytes();
  const auto ranks = static_cast<int64_t>(world);
  std::vector<std::byte> send_memory(static_cast<size_t>(num_sent * bytes));
  std::vector<std::byte> receive_memory(static_cast<size_t>(num_received * bytes));
  from.runner_->export_kv(sent, send_memory.data());
  channel_.world().all_to_all_rows(
      channel_.stream(), Tensor(send_memory.data(), DType::u8, num_sent, bytes, bytes),
      Tensor(sent_rows.data(), DType::i64, 1, ranks, ranks),
      Tensor(receive_memory.data(), DType::u8, num_received, bytes, bytes),
      Tensor(received_rows.data(), DType::i64, 1, ranks, ranks), comm::Purpose::control);
  runner_->import_kv(received, receive_memory.data());
  runner_->copy_kv(kept);
}

}  // namespace chorale::engine
