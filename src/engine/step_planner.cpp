#include "engine/step_planner.h"

#include <algorithm>

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

StepPlanner::StepPlanner(const EngineOptions& options, int64_t num_dp_groups) {
  for (int64_t g = 0; g < num_dp_groups; ++g) {
    dp_groups_.push_back(std::make_unique<DpGroup>(options, num_dp_groups));
  }
  for (PlannedStep& step : steps_) {
    step.groups.resize(dp_groups_.size());
    step.plans.resize(dp_groups_.size());
  }
}

void StepPlanner::add(Sequence& sequence) {
  const auto least =
      std::ranges::min_element(dp_groups_, {}, [](const auto& group) { return group->num_sequences(); });
  sequence.dp_group = static_cast<size_t>(least - dp_groups_.begin());
  (*least)->scheduler.add(sequence);
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

void StepPlanner::flush_prefix_cache() {
  for (const auto& group : dp_groups_) group->blocks.flush();
}

void StepPlanner::report(EngineStats& stats) const {
  stats.running = stats.waiting = stats.kv_tokens_used = stats.kv_tokens_cached = 0;
  stats.prompt_tokens = stats.cached_tokens = stats.prefix_queries = stats.preemptions = 0;
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
