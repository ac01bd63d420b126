// What the next step computes, in all data-parallel groups: which sequences, and which part of each.
//
// Every group has sequences, a KV cache and a scheduler of its own. All of them take part in every step,
// because their ranks share the experts. Pure bookkeeping, as the scheduler is. Not thread-safe.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "engine/block_manager.h"
#include "engine/engine.h"
#include "engine/scheduler.h"
#include "engine/sequence.h"

namespace chorale::engine {

// Where a sequence stands in a planner, to be put back there.
struct SequencePlace {
  Sequence* sequence = nullptr;
  Phase phase = Phase::waiting;
  bool is_prefilling = false;
  int64_t num_computed = 0;
  int64_t num_committed = 0;
  size_t dp_group = 0;
  std::vector<int32_t> blocks;
};

// One step of all groups.
struct PlannedStep {
  StepPhase phase = StepPhase::prefill;
  std::vector<const ScheduledStep*> groups;  // [dp_size]
  std::vector<const StepPlan*> plans;        // [dp_size], what the model has to know of them
};

class StepPlanner {
 public:
  StepPlanner(const EngineOptions& options, int64_t num_dp_groups);

  // Gives a new sequence to the group that has the fewest; of equal ones to the first, so that requests go
  // round. As Scheduler::add.
  void add(Sequence& sequence);
  // As Scheduler::remove.
  void remove(Sequence& sequence);
  bool has_work() const;

  // The next step, valid until the one after it was planned, too. After the model has run it, call commit();
  // between the two no sequence may be added or removed.
  const PlannedStep& plan();
  void commit();

  // The step after the one that was committed, before what that one chooses is known, as
  // Scheduler::schedule_ahead; null when it cannot be planned yet, or is empty.
  const PlannedStep* plan_ahead();
  // That step begins, or, when this gives null, none of its sequences is left.
  const PlannedStep* begin_ahead();

  // What is taken over from another planner, which stays as it was until it is destroyed.
  struct Takeover {
    std::vector<KvBlockMove> moves;     // whose keys and values are to be copied
    std::vector<SequencePlace> before;  // of all sequences
    int64_t num_running = 0;
    int64_t num_recomputed = 0;  // that ran, and wait, because there is no room
  };
  // Of a planner without sequences: takes all of the other's, spread anew over the groups, and as much of its
  // prefix cache as there is room for. No step of either may be planned ahead.
  Takeover take_over(const StepPlanner& other);
  // The sequences are the other planner's again; this one is of no use any more.
  static void undo(const Takeover& takeover);

  void flush_prefix_cache();

  // Sets what is known here: how many sequences there are, what the KV caches hold, and what was admitted.
  void report(EngineStats& stats) const;

 private:
  // Where the blocks of another planner's caches are now: by group and block, group and block.
  struct GroupBlock {
    int32_t group = -1;
    int32_t block = kNoBlock;
  };
  using BlockMap = std::vector<std::vector<GroupBlock>>;

  struct DpGroup {
    DpGroup(const EngineOptions& options, int64_t num_dp_groups);
    int64_t num_sequences() const { return scheduler.num_running() + scheduler.num_waiting(); }

    BlockManager blocks;
    Scheduler scheduler;
  };

  PlannedStep& other_step();
  size_t group_with_fewest() const;
  size_t group_with_most_room() const;
  bool take_running(const StepPlanner& other, Sequence& sequence, Takeover& takeover, BlockMap& map);
  void take_cached(const StepPlanner& other, Takeover& takeover, BlockMap& map);

  int64_t num_spare_blocks_;
  SchedulerCounters taken_over_;  // what other planners counted
  std::vector<std::unique_ptr<DpGroup>> dp_groups_;
  std::array<PlannedStep, 2> steps_;
  size_t turn_ = 0;  // which of them was planned last
};

}  // namespace chorale::engine
