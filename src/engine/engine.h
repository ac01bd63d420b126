// The engine: takes requests, batches them continuously, and tells each request's listener its tokens.
//
// One thread of its own runs the steps: schedule -> run the model -> sample -> notify. With
// EngineOptions::overlap_schedule it schedules a step, and has the model run it, before it waits for the
// tokens of the one before. It sleeps while there is no work. All public functions are thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/clock.h"
#include "engine/expert_report.h"
#include "engine/model_runner.h"
#include "engine/request.h"
#include "engine/time_histogram.h"

namespace chorale::engine {

// Whose prompts are computed next: turns go round between submissions, or first come, first served.
enum class SchedulePolicy { fair, fcfs };
const char* name_of(SchedulePolicy policy);  // as --schedule-policy has it

struct EngineOptions {
  // KV cache capacity of each data-parallel group in tokens, a multiple of the block size; required
  int64_t max_total_tokens = 0;
  int64_t block_tokens = kBlockTokens;  // the runner's; the engine sets it
  int64_t chunked_prefill_size = 512;   // most prompt tokens of one step of a group, over all sequences
  int64_t max_running_requests = 256;   // over all groups, which share it evenly
  int64_t max_queued_requests = 4096;
  int64_t max_context_len = 0;  // prompt plus output; required (the model's max_position_embeddings or less)
  // Most logits rows of one step of a group; 0: its part of max_running_requests; not less than that.
  int64_t max_logits_rows = 0;
  SchedulePolicy schedule_policy = SchedulePolicy::fair;
  bool enable_prefix_cache = true;
  // A step is planned and given to the model while the one before it runs, where the runner can do that
  // (ModelRunner::runs_ahead). No answer, event or counter differs.
  bool overlap_schedule = true;
  EplbSettings eplb;
  int64_t spare_blocks = 0;  // the runner's, of each group; the engine sets it
  std::vector<int32_t> eos_token_ids;
};

// What the sequences of a step did, over all groups.
enum class StepPhase { prefill, decode, mixed };
inline constexpr size_t kNumStepPhases = 3;

// A snapshot over all data-parallel groups; counters are since start.
struct EngineStats {
  int64_t running = 0;
  int64_t waiting = 0;
  int64_t kv_tokens_total = 0;
  int64_t kv_tokens_used = 0;    // held by running sequences
  int64_t kv_tokens_cached = 0;  // held by the prefix cache alone, reclaimable
  uint64_t prompt_tokens = 0;    // computed or found in the cache
  uint64_t cached_tokens = 0;    // found in the cache
  uint64_t prefix_queries = 0;   // prompt tokens looked up
  uint64_t generated_tokens = 0;
  uint64_t finished_stop = 0;
  uint64_t finished_length = 0;
  uint64_t finished_aborted = 0;
  uint64_t finished_error = 0;
  uint64_t preemptions = 0;
  uint64_t steps = 0;
  uint64_t switches = 0;  // to another runner
  double switch_pause_seconds = 0;
  std::array<TimeHistogram, kNumStepPhases> step_seconds;  // by StepPhase, sampling included; `steps` in all
  TimeHistogram queue_seconds;                  // from submission to the first step that computes the request
  std::shared_ptr<const ExpertReport> experts;  // null where they cannot move
  bool failed = false;  // the model runner threw: nothing runs any more, new requests are refused
};

// What a switch to another runner was.
struct SwitchResult {
  std::optional<std::string> error;  // why it was not made
  double pause_seconds = 0;          // in which no step ran
  int64_t moved_blocks = 0;          // of KV cache, in every layer
  uint64_t moved_bytes = 0;
  int64_t moved_sequences = 0;       // that were running, and go on
  int64_t recomputed_sequences = 0;  // that found no room, and wait
};
using SwitchCallback = std::function<void(const SwitchResult& result)>;

struct Submission {
  GenerationRequest request;
  EventListener listener;
};

class Engine {
 public:
  // Starts the thread. The runner must outlive the engine. Times of submission, of steps and in the queue are
  // the clock's. Throws Error for options that are out of range.
  Engine(ModelRunner& runner, EngineOptions options, Clock clock = machine_clock());
  // Aborts what still runs, then joins the thread.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Validates and queues requests, all of them or none, which then share one turn: `overloaded` when the
  // queue has no room for all, `unavailable` after stop_accepting(), or once the model runner has thrown
  // (then every live request ends with finish `error`). Their ids differ. On success each listener will be
  // called with at least one event, the last of which has a finish reason; the listener is destroyed after
  // it. On failure none is ever called, and nothing is counted.
  std::optional<RequestError> submit(std::vector<Submission> submissions);
  std::optional<RequestError> submit(GenerationRequest request, EventListener listener);

  // Ends a request in any phase; its blocks are free before the next step. The listener gets finish
  // `aborted`. Unknown ids are ignored (the request may have just finished).
  void abort(std::string_view id);

  // Drops every prefix-cache block that no running sequence uses, before the next step; wait_idle() waits for
  // it.
  void flush_prefix_cache();

  // Calls back, on the engine's thread and between two steps, with how many tokens were routed to each
  // logical expert since the start: [layers * experts], or nothing for a model without experts. Never calls
  // back once the engine is being destroyed.
  void get_expert_load(std::function<void(std::vector<int64_t>)> callback);

  // Asks for a placement of experts by their load, whatever EngineOptions::eplb says. Calls back, on the
  // engine's thread, when it is in force, or when there is none that is better; as get_expert_load.
  void rebalance_experts(RebalanceCallback callback);

  // Does the work on the engine's thread and between two steps, where the runner is not runs_ahead(). What it
  // throws is a failure of the model runner. It is destroyed without having been done once the runner has
  // failed or the engine is being destroyed.
  void between_steps(std::function<void()> work);

  // Goes on with another runner of the same model from the next step that begins on: running and waiting
  // requests and the prefix cache go there, and what a request is told differs in nothing.
  // max_total_tokens: the capacity of each of its groups; at least that of one longest request. Running
  // requests for which there is no room wait and are computed again. Calls back on the engine's thread when
  // it is done, or with `error`, when the old runner goes on; the one that is not used may then be destroyed,
  // on another thread. The runner that is used must outlive the engine or its next switch.
  void switch_runner(ModelRunner& next, int64_t max_total_tokens, SwitchCallback callback);

  // Refuses new requests (`unavailable`) from now on; running and queued ones go on.
  void stop_accepting();
  // Waits until no request is left or the time is over; true when none is left.
  bool wait_idle(double timeout_seconds);

  EngineStats stats() const;
  const EngineOptions& options() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace chorale::engine
