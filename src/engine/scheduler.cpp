#include "engine/scheduler.h"

#include <algorithm>
#include <iterator>
#include <set>
#include <span>
#include <utility>

#include "base/error.h"
#include "base/math.h"

namespace chorale::engine {
namespace {

// Of prefill, that a turn has before it waits for the others: prompts of usual lengths are not interleaved.
constexpr int64_t kChunksPerTurn = 4;
// Sequences of other turns that are admitted while the first of one finds no room.
constexpr int64_t kMaxOvertakers = 16;

std::span<const int32_t> token_range(const Sequence& sequence, int64_t first, int64_t count) {
  return std::span(sequence.tokens).subspan(static_cast<size_t>(first), static_cast<size_t>(count));
}

}  // namespace

int64_t Scheduler::blocks_for(int64_t num_tokens) const {
  return ceil_div(num_tokens, blocks_->block_tokens());
}

// Whether it can outlive the blocks it has. Its last token is never computed.
bool Scheduler::may_grow(const Sequence& sequence) const {
  const int64_t most_tokens = sequence.num_prompt + sequence.max_output - 1;
  return blocks_for(most_tokens) > static_cast<int64_t>(sequence.blocks.size());
}

Scheduler::Scheduler(BlockManager& blocks, SchedulerOptions options) : blocks_(&blocks), options_(options) {
  CHORALE_CHECK(options.chunked_prefill_size >= 1 && options.max_running_requests >= 1);
  CHORALE_CHECK(options.max_logits_rows >= options.max_running_requests, "{} rows for {} sequences",
                options.max_logits_rows, options.max_running_requests);
}

void Scheduler::add(Sequence& sequence) {
  CHORALE_CHECK(blocks_for(sequence.num_tokens()) <= blocks_->num_blocks(), "the prompt can never fit");
  CHORALE_CHECK(sequence.arrival >= last_arrival_, "out of order of arrival");
  last_arrival_ = sequence.arrival + 1;
  sequence.phase = Phase::waiting;
  turn_of(sequence, false).waiting.push_back(&sequence);
  ++num_waiting_;
}

void Scheduler::adopt(Sequence& sequence) {
  CHORALE_CHECK(blocks_for(sequence.num_tokens()) <= blocks_->num_blocks(), "the sequence can never fit");
  last_arrival_ = std::max(last_arrival_, sequence.arrival + 1);
  if (sequence.phase == Phase::running) {
    CHORALE_CHECK(running_.empty() || running_.back()->arrival < sequence.arrival, "out of order of arrival");
    running_.push_back(&sequence);
    if (sequence.is_prefilling) ++turn_of(sequence, false).num_prefilling;
    return;
  }
  turn_of(sequence, false).waiting.push_back(&sequence);
  ++num_waiting_;
}

std::vector<Sequence*> Scheduler::waiting() const {
  std::vector<Sequence*> sequences;
  for (const Turn& turn : turns_) sequences.insert(sequences.end(), turn.waiting.begin(), turn.waiting.end());
  return sequences;
}

// A new turn is the last, or the first where its sequences have been at work before.
Scheduler::Turn& Scheduler::turn_of(const Sequence& sequence, bool first) {
  const uint64_t key = key_of(sequence);
  const auto found = turn_by_key_.find(key);
  if (found != turn_by_key_.end()) return *found->second;
  const auto turn = turns_.insert(first ? turns_.begin() : turns_.end(), Turn{});
  turn->key = key;
  turn->tokens_left = kChunksPerTurn * options_.chunked_prefill_size;
  turn_by_key_.emplace(key, turn);
  return *turn;
}

void Scheduler::end_turn_if_over(uint64_t key) {
  const auto found = turn_by_key_.find(key);
  if (found == turn_by_key_.end() || !found->second->is_over()) return;
  turns_.erase(found->second);
  turn_by_key_.erase(found);
}

void Scheduler::end_prefill(Sequence& sequence) {
  if (!std::exchange(sequence.is_prefilling, false)) return;
  const uint64_t key = key_of(sequence);
  --turn_by_key_.at(key)->num_prefilling;
  end_turn_if_over(key);
}

void Scheduler::remove(Sequence& sequence) {
  if (sequence.phase == Phase::waiting) {
    std::erase(turn_by_key_.at(key_of(sequence))->waiting, &sequence);
    --num_waiting_;
    end_turn_if_over(key_of(sequence));
  } else if (sequence.phase == Phase::running) {
    std::erase(running_, &sequence);
    end_prefill(sequence);
  }
  sequence.phase = Phase::finished;
  blocks_->release(sequence.blocks);
  if (ahead_ == nullptr) return;
  for (ScheduledSequence& scheduled : ahead_->sequences) {
    if (scheduled.sequence != &sequence) continue;
    scheduled.sequence = nullptr;
    if (scheduled.took_block) blocks_->cancel_ahead();
  }
}

// The other step's plan may still be read.
void Scheduler::clear_step() {
  step_ = step_ == &steps_[0] ? &steps_[1] : &steps_[0];
  step_->plan.token_ids.clear();
  step_->plan.sampled_rows.clear();
  step_->plan.chunks.clear();
  step_->plan.block_tables.clear();
  step_->plan.logits_tokens.clear();
  step_->sequences.clear();
  prefill_budget_ = options_.chunked_prefill_size;
}

const ScheduledStep& Scheduler::schedule() {
  CHORALE_CHECK(ahead_ == nullptr, "a step was planned ahead");
  clear_step();
  schedule_decodes();
  schedule_prefills();
  CHORALE_CHECK(!step_->sequences.empty() || (running_.empty() && num_waiting_ == 0),
                "no sequence can advance");
  return *step_;
}

void Scheduler::schedule_decodes() {
  // By index: preemption takes sequences off the end.
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence& sequence = *running_[i];
    if (sequence.is_decoding() && make_room_for_decode(sequence)) append_chunk(sequence, 1);
  }
}

// What the sequence does next does not depend on the token that is being chosen, nor does what it leaves to
// others, but for its end.
bool Scheduler::may_plan_ahead(const Sequence& sequence) const {
  return sequence.next_prompt_logprob == sequence.num_prompt;
}

const ScheduledStep* Scheduler::schedule_ahead() {
  CHORALE_CHECK(ahead_ == nullptr, "a step was planned ahead");
  ScheduledStep* const current = step_;
  clear_step();
  ahead_ = step_;
  if (plan_ahead()) {
    step_ = current;
    return ahead_;
  }
  drop_ahead();
  step_ = current;
  return nullptr;
}

// False when it has to wait for what the last step chooses. More rows and more places than there are wanted
// would be free if sequences ended, so nothing may want them. Where there are several turns, theirs goes by
// what was computed, so these are not planned ahead.
bool Scheduler::plan_ahead() {
  for (Sequence* sequence : running_) {
    if (!may_plan_ahead(*sequence) || !append_decode_ahead(*sequence)) return false;
  }
  for (Sequence* sequence : running_) {
    if (sequence->num_remaining() > 0 && !sequence->is_decoding() && !schedule_prefill(*sequence)) break;
  }
  step_->plan.sampled_rows.resize(step_->plan.token_ids.size(), -1);
  return turns_.empty() || (turns_.size() == 1 && (num_waiting_ == 0 || prefill_budget_ == 0));
}

// False when no block is left.
bool Scheduler::append_decode_ahead(Sequence& sequence) {
  if (sequence.is_decoding()) {
    append_chunk(sequence, 1);
    return true;
  }
  const bool ends = sequence.num_output() + 1 >= sequence.max_output;
  if (sequence.num_remaining() > 0 || ends) return true;
  const bool takes_block =
      static_cast<int64_t>(sequence.blocks.size()) < blocks_for(sequence.num_tokens() + 1);
  if (takes_block && !blocks_->allocate_ahead(sequence.blocks)) return false;
  append_chunk(sequence, 1);
  step_->plan.sampled_rows.resize(step_->plan.token_ids.size(), -1);
  step_->plan.sampled_rows.back() = sequence.sampled_row;
  step_->sequences.back().took_block = takes_block;
  return true;
}

bool Scheduler::begin_ahead() {
  CHORALE_CHECK(ahead_ != nullptr, "no step was planned ahead");
  step_ = std::exchange(ahead_, nullptr);
  bool is_anyone_left = false;
  for (const ScheduledSequence& scheduled : step_->sequences) {
    if (scheduled.sequence == nullptr) continue;
    is_anyone_left = true;
    if (scheduled.took_block) blocks_->confirm_ahead();
  }
  return is_anyone_left;
}

void Scheduler::drop_ahead() {
  if (ahead_ == nullptr) return;
  for (const ScheduledSequence& scheduled : std::exchange(ahead_, nullptr)->sequences) {
    if (scheduled.sequence == nullptr || !scheduled.took_block) continue;
    blocks_->release_last(scheduled.sequence->blocks);
    blocks_->cancel_ahead();
  }
}

bool Scheduler::make_room_for_decode(Sequence& sequence) {
  if (static_cast<int64_t>(sequence.blocks.size()) >= blocks_for(sequence.num_tokens())) return true;
  while (blocks_->num_available() == 0) {
    const bool is_latest = running_.back() == &sequence;
    preempt_latest();
    if (is_latest) return false;
  }
  blocks_->allocate(1, sequence.blocks);
  return true;
}

void Scheduler::preempt_latest() {
  Sequence& sequence = *running_.back();
  running_.pop_back();
  blocks_->release(sequence.blocks);
  sequence.phase = Phase::waiting;
  sequence.num_computed = 0;
  sequence.num_committed = 0;
  turn_of(sequence, true).waiting.push_front(&sequence);
  ++num_waiting_;
  end_prefill(sequence);
  ++counters_.preemptions;
}

// Turn after turn, until a budget is used up. A turn may have more than its chunks by less than a step.
void Scheduler::schedule_prefills() {
  bool may_admit = true;
  size_t turns_to_see = turns_.size();
  for (auto turn = turns_.begin(); turns_to_see > 0; --turns_to_see) {
    const int64_t before = prefill_budget_;
    const bool goes_on = schedule_turn(*turn, may_admit);
    if (turns_.size() > 1) turn->tokens_left -= before - prefill_budget_;  // alone it waits for nobody
    const auto seen = turn++;
    if (seen->tokens_left <= 0 && options_.policy == SchedulePolicy::fair) {
      seen->tokens_left = kChunksPerTurn * options_.chunked_prefill_size;
      turns_.splice(turns_.end(), turns_, seen);
    }
    if (!goes_on) return;
  }
}

// False when a budget is used up.
bool Scheduler::schedule_turn(Turn& turn, bool& may_admit) {
  turn.is_blocked = false;
  return schedule_running_prefills(turn) && admit_waiting(turn, may_admit);
}

bool Scheduler::schedule_running_prefills(const Turn& turn) {
  int64_t left = turn.num_prefilling;
  for (size_t i = 0; left > 0 && i < running_.size(); ++i) {
    Sequence& sequence = *running_[i];
    if (!sequence.is_prefilling || key_of(sequence) != turn.key) continue;
    --left;
    // Where it was preempted and lacks one token, it has got that as those that decode.
    if (!sequence.is_decoding() && !schedule_prefill(sequence)) return false;
  }
  return true;
}

bool Scheduler::admit_waiting(Turn& turn, bool& may_admit) {
  while (may_admit && !turn.waiting.empty()) {
    if (num_running() >= options_.max_running_requests) {
      may_admit = false;
      break;
    }
    Sequence& sequence = *turn.waiting.front();
    const Admission admission = try_admit(sequence);
    if (admission == Admission::later) break;
    if (admission == Admission::no_room) {
      turn.is_blocked = true;
      may_admit = options_.policy == SchedulePolicy::fair && turn.num_overtakers < kMaxOvertakers;
      break;
    }
    turn.waiting.pop_front();
    --num_waiting_;
    ++turn.num_prefilling;
    turn.num_overtakers = 0;
    for (Turn& other : turns_) other.num_overtakers += other.is_blocked ? 1 : 0;
    sequence.is_prefilling = true;
    running_.insert(std::ranges::upper_bound(running_, sequence.arrival, {}, &Sequence::arrival), &sequence);
    if (!schedule_prefill(sequence)) return false;
  }
  return true;
}

Scheduler::Admission Scheduler::try_admit(Sequence& sequence) {
  const auto reusable = token_range(sequence, 0, sequence.first_logits_position());
  const int64_t cached = blocks_->acquire_prefix(reusable, sequence.blocks, sequence.cache_root);
  const int64_t missing = blocks_for(sequence.num_tokens()) - static_cast<int64_t>(sequence.blocks.size());
  // One block is left for each running sequence that may yet need one, lest it preempt the newcomer at once.
  const auto growing = std::ranges::count_if(running_, [this](const Sequence* s) { return may_grow(*s); });
  const bool has_room = blocks_->num_available() >= missing + growing;
  if (!has_room || next_block_is_being_computed(sequence, cached)) {
    blocks_->release(sequence.blocks);
    return has_room ? Admission::later : Admission::no_room;
  }
  blocks_->allocate(missing, sequence.blocks);
  sequence.phase = Phase::running;
  sequence.num_computed = cached;
  sequence.num_committed = cached / blocks_->block_tokens();
  if (sequence.num_cached < 0) {
    sequence.num_cached = cached;
    counters_.prompt_tokens += static_cast<uint64_t>(sequence.num_prompt);
    counters_.cached_tokens += static_cast<uint64_t>(cached);
    if (blocks_->prefix_cache_enabled()) counters_.prefix_queries += static_cast<uint64_t>(reusable.size());
  }
  return Admission::done;
}

// Whether another sequence's chunk of this step holds the block that this one would compute next. Then it
// waits one step and finds it in the cache, so that many requests with one new prompt compute it once.
bool Scheduler::next_block_is_being_computed(const Sequence& sequence, int64_t cached) const {
  const int64_t end = cached + blocks_->block_tokens();
  if (!blocks_->prefix_cache_enabled() || end > sequence.first_logits_position()) return false;
  const auto wanted = token_range(sequence, 0, end);
  return std::ranges::any_of(step_->sequences, [&](const ScheduledSequence& s) {
    return s.sequence->cache_root == sequence.cache_root && s.sequence->num_computed + s.num_tokens >= end &&
           std::ranges::equal(token_range(*s.sequence, 0, end), wanted);
  });
}

// Schedules as much of the sequence as the budgets of tokens and logits rows allow. False: a budget is used
// up, and nobody who came later may prefill in this step.
bool Scheduler::schedule_prefill(Sequence& sequence) {
  const int64_t rows_left = options_.max_logits_rows - static_cast<int64_t>(step_->plan.logits_tokens.size());
  const int64_t before_rows = std::max<int64_t>(sequence.first_logits_position() - sequence.num_computed, 0);
  const int64_t wanted = sequence.num_remaining();
  const int64_t num_tokens = std::min({wanted, prefill_budget_, before_rows + rows_left});
  if (num_tokens > 0) append_chunk(sequence, num_tokens);
  prefill_budget_ -= num_tokens;
  const auto rows = static_cast<int64_t>(step_->plan.logits_tokens.size());
  return num_tokens == wanted && prefill_budget_ > 0 && rows < options_.max_logits_rows;
}

void Scheduler::append_chunk(Sequence& sequence, int64_t num_tokens) {
  StepPlan& plan = step_->plan;
  const int64_t first_position = sequence.num_computed;
  const int64_t end_position = first_position + num_tokens;
  const int64_t num_blocks = blocks_for(end_position);
  const int64_t first_token = plan.num_tokens();
  plan.chunks.push_back({.first_token = first_token,
                         .num_tokens = num_tokens,
                         .first_position = first_position,
                         .first_block_index = static_cast<int64_t>(plan.block_tables.size()),
                         .num_blocks = num_blocks});
  if (end_position > sequence.num_tokens()) {
    plan.token_ids.push_back(0);  // one that is being chosen
  } else {
    const auto ids = token_range(sequence, first_position, num_tokens);
    plan.token_ids.insert(plan.token_ids.end(), ids.begin(), ids.end());
  }
  plan.block_tables.insert(plan.block_tables.end(), sequence.blocks.begin(),
                           sequence.blocks.begin() + num_blocks);
  const auto first_row = static_cast<int64_t>(plan.logits_tokens.size());
  for (int64_t p = std::max(first_position, sequence.first_logits_position()); p < end_position; ++p) {
    plan.logits_tokens.push_back(static_cast<int32_t>(first_token + p - first_position));
  }
  const int64_t num_rows = static_cast<int64_t>(plan.logits_tokens.size()) - first_row;
  step_->sequences.push_back({&sequence, num_tokens, first_row, num_rows});
}

void Scheduler::commit() {
  const int64_t block_tokens = blocks_->block_tokens();
  for (const ScheduledSequence& scheduled : step_->sequences) {
    if (scheduled.sequence == nullptr) continue;
    Sequence& sequence = *scheduled.sequence;
    sequence.num_computed += scheduled.num_tokens;
    sequence.sampled_row = static_cast<int32_t>(scheduled.first_row + scheduled.num_rows - 1);
    if (sequence.num_remaining() == 0) end_prefill(sequence);
    for (; (sequence.num_committed + 1) * block_tokens <= sequence.num_computed; ++sequence.num_committed) {
      const auto ids = token_range(sequence, sequence.num_committed * block_tokens, block_tokens);
      blocks_->commit(sequence.blocks, sequence.num_committed, ids, sequence.cache_root);
    }
  }
}

void Scheduler::check_invariants() const {
  const int64_t block_tokens = blocks_->block_tokens();
  std::vector<const std::vector<int32_t>*> tables;
  const Sequence* previous = nullptr;
  auto check = [&](const Sequence* sequence, Phase phase) {
    CHORALE_CHECK(previous == nullptr || previous->arrival < sequence->arrival, "out of order of arrival");
    CHORALE_CHECK(sequence->phase == phase);
    CHORALE_CHECK(sequence->num_computed <= sequence->num_tokens());
    CHORALE_CHECK(sequence->num_computed <= static_cast<int64_t>(sequence->blocks.size()) * block_tokens);
    CHORALE_CHECK(sequence->num_committed * block_tokens <= sequence->num_computed);
    tables.push_back(&sequence->blocks);
    previous = sequence;
  };
  for (const Sequence* sequence : running_) check(sequence, Phase::running);
  int64_t num_waiting = 0;
  CHORALE_CHECK(turns_.size() == turn_by_key_.size());
  for (const Turn& turn : turns_) {
    CHORALE_CHECK(!turn.is_over() && &*turn_by_key_.at(turn.key) == &turn);
    CHORALE_CHECK(turn.num_prefilling == std::ranges::count_if(running_, [&](const Sequence* sequence) {
                    return sequence->is_prefilling && key_of(*sequence) == turn.key;
                  }));
    previous = nullptr;
    for (const Sequence* sequence : turn.waiting) {
      check(sequence, Phase::waiting);
      CHORALE_CHECK(sequence->blocks.empty() && key_of(*sequence) == turn.key);
    }
    num_waiting += std::ssize(turn.waiting);
  }
  CHORALE_CHECK(num_waiting == num_waiting_);
  blocks_->check_invariants(tables);
  std::set<int32_t> written;
  for (const SequenceChunk& chunk : step_->plan.chunks) {
    CHORALE_CHECK(chunk.num_tokens > 0 &&
                  chunk.num_blocks == blocks_for(chunk.first_position + chunk.num_tokens));
    for (int64_t b = chunk.first_position / block_tokens; b < chunk.num_blocks; ++b) {
      const int32_t block = step_->plan.block_tables[static_cast<size_t>(chunk.first_block_index + b)];
      CHORALE_CHECK(written.insert(block).second, "block {} is written twice", block);
    }
  }
}

}  // namespace chorale::engine
