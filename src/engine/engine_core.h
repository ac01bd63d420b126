// The engine without its thread: what one step does, from plan to events.
//
// Engine drives it from a thread of its own, and `chorale simulate` from a clock that it advances itself;
// both therefore plan, admit, preempt and cache alike. Not thread-safe, but for options() and vocab_size().
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "engine/clock.h"
#include "engine/engine.h"
#include "engine/expert_balancer.h"
#include "engine/inbox.h"
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

  void flush_prefix_cache() { planner_->flush_prefix_cache(); }
  // As ModelRunner has it, of this runner and those before it; nothing once it has failed.
  std::vector<int64_t> expert_load();

  // As Engine has them; deliver() calls back. A switch is made by make_switches().
  void rebalance(RebalanceCallback callback);
  void switch_runner(SwitchCommand command) { switches_.push_back(std::move(command)); }
  // As Engine::between_steps().
  void do_work(const std::function<void()>& work);
  // Between two steps. Not while a step that was planned ahead is under way: no other is planned ahead then
  // until the switch is made.
  void make_switches();

  // Whether no sequence is left whose last event was not delivered.
  bool is_empty() const { return sequences_.empty(); }
  bool has_work() const { return planner_->has_work(); }
  // How long the thread that steps may wait for something to do: 0 while there is work. An idle engine looks
  // now and then whether a rank has died, and goes on with experts that move.
  std::chrono::milliseconds longest_sleep() const;
  // One step of the model; without work experts may still move. What came of it is told by deliver().
  void step();

  // Brought up to date.
  const EngineStats& stats();
  // What deliver() will tell the listeners.
  std::span<const Outbox::Entry> events() const { return outbox_.entries(); }
  void deliver();

  // Refuses the switches that were not made, and waits for what the runner may still be doing. For the end.
  void stop();

 private:
  using TimePoint = std::chrono::steady_clock::time_point;

  SwitchResult make_switch(const SwitchCommand& command);
  std::unique_ptr<ExpertBalancer> balancer_of(ModelRunner& next) const;
  void use_runner(ModelRunner& next, std::unique_ptr<StepPlanner> planner,
                  std::unique_ptr<ExpertBalancer> balancer);
  void balance_experts(bool stepped);
  void run_step();
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
  const int64_t logits_rows_;  // as they were given
  const EngineOptions options_;
  const int64_t vocab_size_;
  const Clock clock_;

  std::unordered_map<uint64_t, std::unique_ptr<Sequence>> sequences_;  // by arrival
  std::unique_ptr<StepPlanner> planner_;
  std::vector<SampledStep> sampled_;                               // [dp_size], of the step
  std::vector<SwitchCommand> switches_;                            // that are to be made
  std::vector<std::pair<SwitchCallback, SwitchResult>> switched_;  // what is to be told of them
  std::vector<int64_t> expert_load_of_others_;                     // of the runners before this one
  // The forward pass of the planner's next step is under way, or could not begin for this reason.
  bool is_ahead_ = false;
  std::optional<std::string> ahead_failure_;
  TimePoint step_start_;  // or the end of the one before, where that is later
  MaskWorkers masks_;
  std::optional<TokenChooser> chooser_;
  std::unique_ptr<ExpertBalancer> balancer_;  // null where experts cannot move
  Outbox outbox_;
  EngineStats stats_;
  bool failed_ = false;
};

}  // namespace chorale::engine
