// The engine without its thread: what one step does, from plan to events.
//
// Engine drives it from a thread of its own, and `chorale simulate` from a clock that it advances itself;
// both therefore plan, admit, preempt and cache alike. Not thread-safe, but for options() and vocab_size().
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/clock.h"
#include "engine/engine.h"
#include "engine/outbox.h"
#include "engine/sequence.h"
#include "engine/step_planner.h"
#include "engine/token_chooser.h"

namespace chorale::engine {

class EngineCore {
 public:
  // The runner must outlive the core. mask_threads: that make masks of constrained outputs beside the thread
  // that steps; 0: none. Throws Error for options that are out of range.
  EngineCore(ModelRunner& runner, EngineOptions options, Clock clock, int mask_threads);

  const EngineOptions& options() const { return options_; }
  int64_t vocab_size() const { return vocab_size_; }

  // A sequence of make_sequence(), whose arrival, submission, seed and time of submission are set. Arrivals
  // ascend.
  void add(std::unique_ptr<Sequence> sequence);
  // Ends one; does nothing when it has ended.
  void abort(uint64_t arrival);
  void abort_all();
  // Ends all with `error`, once the model runner has failed.
  void fail_all(const std::string& message);
  // Whether the model runner has failed: nothing runs any more.
  bool failed() const { return failed_; }
  // Asks the runner whether it can go on.
  void check_runner();

  void flush_prefix_cache() { planner_.flush_prefix_cache(); }
  // As ModelRunner has it; nothing once it has failed.
  std::vector<int64_t> expert_load();

  // Whether no sequence is left whose last event was not delivered.
  bool is_empty() const { return sequences_.empty(); }
  bool has_work() const { return planner_.has_work(); }
  // One step of the model; nothing without work. What came of it is told by deliver().
  void step();

  // Brought up to date.
  const EngineStats& stats();
  // What deliver() will tell the listeners.
  std::span<const Outbox::Entry> events() const { return outbox_.entries(); }
  void deliver();

  // Waits for what the runner may still be doing; for the end.
  void synchronize();

 private:
  using TimePoint = std::chrono::steady_clock::time_point;

  const PlannedStep* begin_step();
  const PlannedStep* begin_ahead();
  void plan_ahead();
  void note_first_steps(const PlannedStep& step, TimePoint now);
  template <typename Work>
  bool run(const Work& work);
  void collect(const PlannedStep& step);
  void take_choices(const PlannedStep& step);
  void take_choice(Sequence& sequence, Choice choice);
  void append_token(Sequence& sequence, Choice choice);
  void finish(Sequence& sequence, GenerationEvent& event, FinishReason reason);
  void finish_early(Sequence& sequence, FinishReason reason);
  void fail(Sequence& sequence, RequestError error);
  void fail_engine(const std::string& why);

  ModelRunner* runner_;
  const EngineOptions options_;
  const int64_t vocab_size_;
  const Clock clock_;

  std::unordered_map<uint64_t, std::unique_ptr<Sequence>> sequences_;  // by arrival
  StepPlanner planner_;
  std::vector<SampledStep> sampled_;  // [dp_size], of the step
  // The forward pass of the planner's next step is under way, or could not begin for this reason.
  bool is_ahead_ = false;
  std::optional<std::string> ahead_failure_;
  TimePoint step_start_;  // or the end of the one before, where that is later
  MaskWorkers masks_;
  TokenChooser chooser_;
  Outbox outbox_;
  EngineStats stats_;
  bool failed_ = false;
};

// Before anything was done.
EngineStats initial_stats(const EngineOptions& options, int64_t num_dp_groups);

}  // namespace chorale::engine
