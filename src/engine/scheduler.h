// Decides what each step computes: which sequences, how many tokens of each, and where their keys and values
// go.
//
// Every running sequence that decodes gets its token; what the prefill budget leaves goes to prompts. Those
// that were submitted together share one turn, in order of arrival, and turns go round: each has some chunks,
// and then waits for all others, so that one client's batch of prompts does not hold up the rest. With
// SchedulePolicy::fcfs all share one turn that does not end: first come, first served.
//
// Of a turn only the first that waits may be admitted, and it gets blocks for all its tokens at once. When it
// does not fit, nothing behind it is looked at, and of other turns no more than a few are admitted before it.
// When a decode finds no block, the running sequence that arrived last is preempted: it gives up its blocks,
// returns to the front of its turn, and is computed again later (often from the prefix cache). So the oldest
// running sequence always advances and nobody starves.
//
// A step can be planned ahead, while the one before it runs: every sequence that waits for its next token is
// taken to go on, with a token of which the row is known and not the id (StepPlan::sampled_rows). That is
// done only where nothing else could depend on what that step chooses, so that a planner that waits for it
// would plan the same, but for the sequences that have ended meanwhile: nobody waits for a place, no block
// is short, and no log probabilities of a prompt are due.
//
// Pure bookkeeping: no threads, no clock, no model. In steady state schedule() and commit() do not allocate.
// Not thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <list>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/block_manager.h"
#include "engine/engine.h"
#include "engine/model_runner.h"
#include "engine/sequence.h"

namespace chorale::engine {

struct SchedulerOptions {
  SchedulePolicy policy = SchedulePolicy::fair;
  int64_t chunked_prefill_size = 512;  // most prefill tokens of one step
  int64_t max_running_requests = 256;
  int64_t max_logits_rows = 256;  // at least max_running_requests
};

// One sequence's part of a step: chunk i of the plan. Its logits rows are [first_row, first_row + num_rows),
// for its last num_rows tokens of this step.
struct ScheduledSequence {
  Sequence* sequence =
      nullptr;  // null: it has ended since the step was planned, and nobody looks at its rows
  int64_t num_tokens = 0;
  int64_t first_row = 0;
  int64_t num_rows = 0;
  bool took_block = false;  // with BlockManager::allocate_ahead()
};

// One step of one data-parallel group.
struct ScheduledStep {
  StepPlan plan;
  std::vector<ScheduledSequence> sequences;  // parallel to plan.chunks
};

// Since the scheduler was made.
struct SchedulerCounters {
  uint64_t preemptions = 0;
  uint64_t prompt_tokens = 0;   // in sequences admitted for the first time
  uint64_t cached_tokens = 0;   // those found in the prefix cache
  uint64_t prefix_queries = 0;  // those looked up there
};

class Scheduler {
 public:
  // The block manager must outlive the scheduler.
  Scheduler(BlockManager& blocks, SchedulerOptions options);
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // Puts a new sequence at the end of the queue. Its `arrival` must exceed all earlier ones; it must stay
  // where it is until it was removed.
  void add(Sequence& sequence);
  // Takes over a sequence of another scheduler as it is, running or waiting, with blocks of this one's block
  // manager. First those that run, then those that wait, each in order of arrival.
  void adopt(Sequence& sequence);
  // Those that run, in order of arrival; those that wait, turn after turn.
  std::span<Sequence* const> running() const { return running_; }
  std::vector<Sequence*> waiting() const;
  int64_t max_running_requests() const { return options_.max_running_requests; }
  // Takes a sequence out, in any phase, and releases its blocks.
  void remove(Sequence& sequence);

  // The next step; empty only when there are no sequences. Valid until the step after it was planned, too.
  // After the model has run it, call commit(); between the two no sequence may be added or removed.
  const ScheduledStep& schedule();
  // Records that the scheduled tokens are in the KV cache, and offers their full blocks to the prefix cache.
  void commit();

  // The step after the one that was committed, before what that one chooses is known; null when it cannot be
  // planned yet. Sequences may be added and removed before it begins.
  const ScheduledStep* schedule_ahead();
  // That step begins, or is given up. What the one before it chose is known to its sequences. False when none
  // of them is left.
  bool begin_ahead();
  void drop_ahead();

  int64_t num_running() const { return static_cast<int64_t>(running_.size()); }
  int64_t num_waiting() const { return num_waiting_; }
  const SchedulerCounters& counters() const { return counters_; }

  // Aborts the process when an invariant is broken: order of arrival, block tables, the last plan.
  void check_invariants() const;

 private:
  // Sequences that were submitted together, and are not all computed yet.
  struct Turn {
    uint64_t key = 0;
    std::deque<Sequence*> waiting;  // in order of arrival
    int64_t num_prefilling = 0;     // of running sequences
    int64_t tokens_left = 0;        // before it waits for the others
    bool is_blocked = false;        // in this step: its first does not fit
    int64_t num_overtakers = 0;     // that were admitted since then
    bool is_over() const { return waiting.empty() && num_prefilling == 0; }
  };

  uint64_t key_of(const Sequence& sequence) const {
    return options_.policy == SchedulePolicy::fcfs ? 0 : sequence.submission;
  }
  Turn& turn_of(const Sequence& sequence, bool first);
  void end_turn_if_over(uint64_t key);
  void end_prefill(Sequence& sequence);

  void schedule_decodes();
  void schedule_prefills();
  bool schedule_turn(Turn& turn, bool& may_admit);
  bool schedule_running_prefills(const Turn& turn);
  bool admit_waiting(Turn& turn, bool& may_admit);
  bool plan_ahead();
  bool append_decode_ahead(Sequence& sequence);
  bool may_plan_ahead(const Sequence& sequence) const;
  void clear_step();
  bool make_room_for_decode(Sequence& sequence);
  int64_t blocks_for(int64_t num_tokens) const;
  bool may_grow(const Sequence& sequence) const;
  enum class Admission { done, no_room, later };
  Admission try_admit(Sequence& sequence);
  bool next_block_is_being_computed(const Sequence& sequence, int64_t cached) const;
  void preempt_latest();
  bool schedule_prefill(Sequence& sequence);
  void append_chunk(Sequence& sequence, int64_t num_tokens);

  BlockManager* blocks_;
  SchedulerOptions options_;
  std::vector<Sequence*> running_;  // in order of arrival
  std::list<Turn> turns_;           // the next one first
  std::unordered_map<uint64_t, std::list<Turn>::iterator> turn_by_key_;
  int64_t num_waiting_ = 0;
  uint64_t last_arrival_ = 0;  // of those that came, plus one
  SchedulerCounters counters_;

  std::array<ScheduledStep, 2> steps_;
  ScheduledStep* step_ = &steps_[0];  // that is planned, or was last
  ScheduledStep* ahead_ = nullptr;    // the other one, when it was planned ahead
  int64_t prefill_budget_ = 0;
};

}  // namespace chorale::engine
