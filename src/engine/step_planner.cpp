#include "engine/step_planner.h"

#include <algorithm>
#include <iterator>
#include <span>
#include <utility>

#include "base/math.h"

namespace chorale::engine {
namespace {

StepPhase phase_of(const PlannedStep& step) {
  bool prefills = false;
  bool decodes = false;
  for (const ScheduledStep* group : step.groups) {
    for (const ScheduledSequence& scheduled : group->sequences) {
      if (scheduled.sequence == nullptr) continue;
      (scheduled.sequence->is_decoding() ? decodes : prefills) = true;
    }
  }
  if (!decodes) return StepPhase::prefill;
  return prefills ? StepPhase::mixed : StepPhase::decode;
}

}  // namespace

StepPlanner::DpGroup::DpGroup(const EngineOptions& options, int64_t num_dp_groups)
    : blocks(options.max_total_tokens / options.block_tokens, options.enable_prefix_cache, hash_block,
             options.block_tokens, options.spare_blocks),
      scheduler(blocks, {.policy = options.schedule_policy,
                         .chunked_prefill_size = options.chunked_prefill_size,
                         .max_running_requests = ceil_div(options.max_running_requests, num_dp_groups),
                         .max_logits_rows = options.max_logits_rows}) {}

StepPlanner::StepPlanner(const EngineOptions& options, int64_t num_dp_groups)
    : num_spare_blocks_(options.spare_blocks) {
  for (int64_t g = 0; g < num_dp_groups; ++g) {
    dp_groups_.push_back(std::make_unique<DpGroup>(options, num_dp_groups));
  }
  for (PlannedStep& step : steps_) {
    step.groups.resize(dp_groups_.size());
    step.plans.resize(dp_groups_.size());
  }
}

void StepPlanner::add(Sequence& sequence) {
  sequence.dp_group = group_with_fewest();
  dp_groups_[sequence.dp_group]->scheduler.add(sequence);
}

void StepPlanner::remove(Sequence& sequence) {
  dp_groups_[sequence.dp_group]->scheduler.remove(sequence);
}

bool StepPlanner::has_work() const {
  return std::ranges::any_of(dp_groups_, [](const auto& group) { return group->num_sequences() > 0; });
}

// The last one may still be read.
PlannedStep& StepPlanner::other_step() {
  turn_ = (turn_ + 1) % steps_.size();
  return steps_[turn_];
}

const PlannedStep& StepPlanner::plan() {
  PlannedStep& step = other_step();
  for (size_t g = 0; g < dp_groups_.size(); ++g) {
    step.groups[g] = &dp_groups_[g]->scheduler.schedule();
    step.plans[g] = &step.groups[g]->plan;
  }
  step.phase = phase_of(step);
  return step;
}

const PlannedStep* StepPlanner::plan_ahead() {
  PlannedStep& step = other_step();
  bool is_planned = true, is_empty = true;
  for (size_t g = 0; g < dp_groups_.size() && is_planned; ++g) {
    step.groups[g] = dp_groups_[g]->scheduler.schedule_ahead();
    is_planned = step.groups[g] != nullptr;
    if (!is_planned) break;
    step.plans[g] = &step.groups[g]->plan;
    is_empty &= step.groups[g]->sequences.empty();
  }
  if (is_planned && !is_empty) return &step;
  for (const auto& group : dp_groups_) group->scheduler.drop_ahead();
  return nullptr;
}

const PlannedStep* StepPlanner::begin_ahead() {
  bool is_anyone_left = false;
  for (const auto& group : dp_groups_) is_anyone_left |= group->scheduler.begin_ahead();
  PlannedStep& step = steps_[turn_];
  step.phase = phase_of(step);
  return is_anyone_left ? &step : nullptr;
}

void StepPlanner::commit() {
  for (const auto& group : dp_groups_) group->scheduler.commit();
}

// Waiting sequences hold no blocks, and those that run share theirs through the prefix cache alone, so what
// was moved for one is found by the next.
StepPlanner::Takeover StepPlanner::take_over(const StepPlanner& other) {
  Takeover takeover;
  BlockMap map;
  std::vector<Sequence*> running, waiting;
  for (const auto& group : other.dp_groups_) {
    map.emplace_back(static_cast<size_t>(group->blocks.num_blocks() + other.num_spare_blocks_));
    std::ranges::copy(group->scheduler.running(), std::back_inserter(running));
    std::ranges::copy(group->scheduler.waiting(), std::back_inserter(waiting));
  }
  for (const std::vector<Sequence*>* sequences : {&running, &waiting}) {
    for (Sequence* s : *sequences) {
      takeover.before.push_back(
          {s, s->phase, s->is_prefilling, s->num_computed, s->num_committed, s->dp_group, s->blocks});
    }
  }
  std::ranges::sort(running, {}, &Sequence::arrival);
  for (Sequence* sequence : running) {
    if (take_running(other, *sequence, takeover, map)) continue;
    waiting.push_back(sequence);
    ++takeover.num_recomputed;
  }
  std::ranges::sort(waiting, {}, &Sequence::arrival);
  for (Sequence* sequence : waiting) {
    sequence->dp_group = group_with_fewest();
    dp_groups_[sequence->dp_group]->scheduler.adopt(*sequence);
  }
  take_cached(other, takeover, map);
  EngineStats counted;
  other.report(counted);
  taken_over_ = {.preemptions = counted.preemptions + static_cast<uint64_t>(takeover.num_recomputed),
                 .prompt_tokens = counted.prompt_tokens,
                 .cached_tokens = counted.cached_tokens,
                 .prefix_queries = counted.prefix_queries};
  return takeover;
}

// False where there is no place or no room for it: then it is as one that was preempted.
bool StepPlanner::take_running(const StepPlanner& other, Sequence& sequence, Takeover& takeover,
                               BlockMap& map) {
  const size_t from = sequence.dp_group, to = group_with_fewest();
  BlockManager& blocks = dp_groups_[to]->blocks;
  Scheduler& scheduler = dp_groups_[to]->scheduler;
  const int64_t block_tokens = blocks.block_tokens();
  const auto tokens_of = [&](int64_t first, int64_t count) {
    return std::span(sequence.tokens)
        .subspan(static_cast<size_t>(first * block_tokens), static_cast<size_t>(count * block_tokens));
  };
  const std::vector<int32_t> old = std::exchange(sequence.blocks, {});
  blocks.acquire_prefix(tokens_of(0, sequence.num_committed), sequence.blocks, sequence.cache_root);
  const auto found = std::ssize(sequence.blocks);
  const int64_t missing = std::ssize(old) - found;
  if (scheduler.num_running() == scheduler.max_running_requests() || blocks.num_available() < missing) {
    blocks.release(sequence.blocks);
    sequence.phase = Phase::waiting;
    sequence.is_prefilling = false;
    sequence.num_computed = sequence.num_committed = 0;
    return false;
  }
  blocks.allocate(missing, sequence.blocks);
  const int64_t computed = ceil_div(sequence.num_computed, block_tokens);
  for (int64_t i = 0; i < std::ssize(old); ++i) {
    const auto at = static_cast<size_t>(i);
    if (i >= found && i < computed) {
      takeover.moves.push_back(
          {static_cast<int32_t>(from), old[at], static_cast<int32_t>(to), sequence.blocks[at]});
    }
    if (i >= sequence.num_committed || !other.dp_groups_[from]->blocks.prefix_cache_enabled()) continue;
    if (i >= found) blocks.commit(sequence.blocks, i, tokens_of(i, 1), sequence.cache_root);
    map[from][static_cast<size_t>(old[at])] = {static_cast<int32_t>(to), sequence.blocks[at]};
  }
  sequence.dp_group = to;
  scheduler.adopt(sequence);
  ++takeover.num_running;
  return true;
}

// A block goes where the one before it went. The caches of several groups are taken in turns; what comes
// later was used longer ago, and finds less room.
void StepPlanner::take_cached(const StepPlanner& other, Takeover& takeover, BlockMap& map) {
  std::vector<std::vector<CachedBlock>> idle;
  size_t most = 0;
  for (const auto& group : other.dp_groups_) {
    idle.push_back(group->blocks.idle_blocks());
    most = std::max(most, idle.back().size());
  }
  std::vector<GroupBlock> taken;
  for (size_t i = 0; i < most; ++i) {
    for (size_t from = 0; from < idle.size(); ++from) {
      if (i >= idle[from].size()) continue;
      const CachedBlock& cached = idle[from][i];
      const bool is_first = cached.parent == kNoBlock;
      const GroupBlock parent = is_first ? GroupBlock{static_cast<int32_t>(group_with_most_room()), kNoBlock}
                                         : map[from][static_cast<size_t>(cached.parent)];
      if (parent.group < 0) continue;
      BlockManager& blocks = dp_groups_[static_cast<size_t>(parent.group)]->blocks;
      if (blocks.num_available() == 0) continue;
      std::vector<int32_t> table;
      if (!is_first) table.push_back(parent.block);
      blocks.allocate(1, table);
      const int32_t fresh = table.back();
      blocks.commit(table, std::ssize(table) - 1, cached.token_ids, cached.root);
      const GroupBlock now{parent.group, table.back()};
      map[from][static_cast<size_t>(cached.block)] = now;
      taken.push_back(now);
      if (now.block == fresh) {
        takeover.moves.push_back({static_cast<int32_t>(from), cached.block, now.group, now.block});
      }
    }
  }
  // Until here they count as used, so that none is evicted for another.
  for (auto last = taken.rbegin(); last != taken.rend(); ++last) {
    std::vector<int32_t> table{last->block};
    dp_groups_[static_cast<size_t>(last->group)]->blocks.release(table);
  }
}

void StepPlanner::undo(const Takeover& takeover) {
  for (const SequencePlace& place : takeover.before) {
    Sequence& sequence = *place.sequence;
    sequence.phase = place.phase;
    sequence.is_prefilling = place.is_prefilling;
    sequence.num_computed = place.num_computed;
    sequence.num_committed = place.num_committed;
    sequence.dp_group = place.dp_group;
    sequence.blocks = place.blocks;
  }
}

size_t StepPlanner::group_with_fewest() const {
  const auto least =
      std::ranges::min_element(dp_groups_, {}, [](const auto& group) { return group->num_sequences(); });
  return static_cast<size_t>(least - dp_groups_.begin());
}

size_t StepPlanner::group_with_most_room() const {
  const auto most = std::ranges::max_element(dp_groups_, {},
                                             [](const auto& group) { return group->blocks.num_available(); });
  return static_cast<size_t>(most - dp_groups_.begin());
}

void StepPlanner::flush_prefix_cache() {
  for (const auto& group : dp_groups_) group->blocks.flush();
}

void StepPlanner::report(EngineStats& stats) const {
  stats.running = stats.waiting = stats.kv_tokens_used = stats.kv_tokens_cached = 0;
  stats.prompt_tokens = taken_over_.prompt_tokens;
  stats.cached_tokens = taken_over_.cached_tokens;
  stats.prefix_queries = taken_over_.prefix_queries;
  stats.preemptions = taken_over_.preemptions;
  for (const auto& group : dp_groups_) {
    const SchedulerCounters& counted = group->scheduler.counters();
    stats.running += group->scheduler.num_running();
    stats.waiting += group->scheduler.num_waiting();
    stats.kv_tokens_used += group->blocks.num_used() * group->blocks.block_tokens();
    stats.kv_tokens_cached += group->blocks.num_cached() * group->blocks.block_tokens();
    stats.prompt_tokens += counted.prompt_tokens;
    stats.cached_tokens += counted.cached_tokens;
    stats.prefix_queries += counted.prefix_queries;
    stats.preemptions += counted.preemptions;
  }
}

}  // namespace chorale::engine
