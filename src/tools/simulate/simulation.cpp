#include "tools/simulate/simulation.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <queue>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/random.h"
#include "engine/admission.h"
#include "engine/engine_core.h"
#include "tools/simulate/recorder.h"

namespace chorale::simulate {
namespace {

constexpr uint32_t kSampleStream = 0;

engine::EngineOptions engine_options(const SimulationOptions& options) {
  engine::EngineOptions engine = options.engine;
  engine.eos_token_ids.clear();
  return engine;
}

// One engine. Its step is computed when it begins, and told when it ends.
class Replica {
 public:
  Replica(const SimulationOptions& options, const StepSeconds& step_seconds, Recorder& recorder)
      : recorder_(&recorder),
        runner_(options.shape, step_seconds),
        core_(runner_, engine_options(options), runner_.clock(), 0) {
    runner_.on_step = [this](std::span<const engine::StepPlan* const> plans) {
      const engine::EngineStats& stats = core_.stats();
      kv_tokens_ = stats.kv_tokens_used;
      running_ = stats.running;
      if (on_step) on_step(runner_.now(), plans);
    };
  }

  std::optional<RequestError> add(SimulatedRequest& request, size_t record, uint64_t arrival, uint64_t seed,
                                  Time now) {
    engine::Submission submission;
    submission.request.prompt_ids = std::move(request.prompt_ids);
    submission.request.sampling.max_new_tokens = request.output_tokens;
    submission.request.sampling.ignore_eos = true;
    submission.request.sampling.temperature = 0;
    submission.listener = [this, record](const engine::GenerationEvent& event) {
      recorder_->take_token(record, runner_.now(), event.queue_seconds,
                            event.finish != engine::FinishReason::none);
    };
    if (auto error = engine::check_queue(core_.options(), core_.stats().waiting, 1)) return error;
    std::unique_ptr<engine::Sequence> sequence;
    if (auto error =
            engine::make_sequence(std::move(submission), core_.options(), core_.vocab_size(), sequence))
      return error;
    sequence->arrival = sequence->submission = arrival;
    sequence->submitted = std::chrono::steady_clock::time_point(now);
    sequence->seed = seed;
    core_.add(std::move(sequence));
    ++live_;
    return std::nullopt;
  }

  bool has_work() const { return core_.has_work(); }
  // Requests that have not ended.
  int64_t live() const { return live_; }

  // Begins a step, of which the end is given.
  Time begin_step(Time now) {
    runner_.set_now(now);
    core_.step();
    return runner_.now();
  }
  // What came of it is told. Gives how many requests have ended.
  void end_step() {
    for (const engine::Outbox::Entry& entry : core_.events()) live_ -= entry.is_last() ? 1 : 0;
    core_.deliver();
  }

  // During the last step.
  int64_t kv_tokens() const { return kv_tokens_; }
  int64_t running() const { return running_; }
  // Once it has nothing to do.
  void set_idle() { kv_tokens_ = running_ = 0; }

  const engine::EngineStats& stats() { return core_.stats(); }

  std::function<void(Time, std::span<const engine::StepPlan* const>)> on_step;

 private:
  Recorder* recorder_;
  SimulatedRunner runner_;
  engine::EngineCore core_;
  int64_t live_ = 0;
  int64_t kv_tokens_ = 0;
  int64_t running_ = 0;
};

class Simulation {
 public:
  Simulation(const SimulationOptions& options, const StepSeconds& step_seconds, RequestSource& source)
      : options_(options), source_(source) {
    CHORALE_CHECK(options.num_replicas >= 1);
    for (int i = 0; i < options.num_replicas; ++i)
      replicas_.push_back(std::make_unique<Replica>(options, step_seconds, recorder_));
    replicas_.front()->on_step = options.on_step;
    is_awake_.resize(replicas_.size());
  }

  // Of what is due at one time, requests come before the steps that could compute them.
  SimulationResult run() {
    has_next_ = source_.next(next_);
    while (true) {
      const bool may_send =
          has_next_ && (!options_.max_concurrency || recorder_.in_flight() < *options_.max_concurrency);
      const Time send = std::max(next_.arrival, now_);
      if (may_send && (turns_.empty() || send <= turns_.top().first)) {
        now_ = send;
        send_next();
      } else if (!turns_.empty()) {
        const auto [time, index] = turns_.top();
        turns_.pop();
        now_ = time;
        take_turn(index);
      } else {
        return result();
      }
    }
  }

 private:
  void send_next() {
    const size_t record = recorder_.start(now_, std::ssize(next_.prompt_ids));
    const size_t index = choose_replica();
    const uint64_t arrival = num_sent_++;
    const auto error = replicas_[index]->add(next_, record, arrival,
                                             random_bits(options_.seed, kSampleStream, arrival), now_);
    if (error) {
      recorder_.refuse(record, error->message);
    } else if (!is_awake_[index]) {
      is_awake_[index] = true;
      turns_.emplace(now_, index);
    }
    has_next_ = source_.next(next_);
  }

  size_t choose_replica() {
    if (options_.router == Router::round_robin) return num_sent_ % replicas_.size();
    const auto least =
        std::ranges::min_element(replicas_, {}, [](const auto& replica) { return replica->live(); });
    return static_cast<size_t>(least - replicas_.begin());
  }

  // The replica's step has ended, or it had none; the next one begins.
  void take_turn(size_t index) {
    Replica& replica = *replicas_[index];
    replica.end_step();
    kv_tokens_ -= replica.kv_tokens();
    running_ -= replica.running();
    if (replica.has_work()) {
      turns_.emplace(replica.begin_step(now_), index);
    } else {
      replica.set_idle();
      is_awake_[index] = false;
    }
    kv_tokens_ += replica.kv_tokens();
    running_ += replica.running();
    recorder_.set_held(now_, kv_tokens_, running_);
  }

  SimulationResult result() {
    SimulationResult result{.metrics = recorder_.metrics(),
                            .queue = recorder_.queue(),
                            .errors = recorder_.errors(),
                            .mean_kv_tokens = recorder_.mean_kv_tokens(),
                            .peak_kv_tokens = recorder_.peak_kv_tokens(),
                            .mean_running = recorder_.mean_running(),
                            .mean_waiting = recorder_.mean_waiting(),
                            .peak_waiting = recorder_.peak_waiting(),
                            .windows = recorder_.windows()};
    for (const auto& replica : replicas_) {
      const engine::EngineStats& stats = replica->stats();
      result.kv_tokens_total += stats.kv_tokens_total;
      result.prompt_tokens += stats.prompt_tokens;
      result.cached_tokens += stats.cached_tokens;
      result.preemptions += stats.preemptions;
      result.steps += stats.steps;
    }
    return result;
  }

  const SimulationOptions& options_;
  RequestSource& source_;
  Recorder recorder_;
  std::vector<std::unique_ptr<Replica>> replicas_;
  std::vector<bool> is_awake_;  // it has a turn
  using Turn = std::pair<Time, size_t>;
  std::priority_queue<Turn, std::vector<Turn>, std::greater<>> turns_;
  SimulatedRequest next_;
  bool has_next_ = false;
  uint64_t num_sent_ = 0;
  Time now_{};
  int64_t kv_tokens_ = 0, running_ = 0;  // of all replicas
};

}  // namespace

std::string_view name_of(Router router) {
  return router == Router::round_robin ? "round-robin" : "least-loaded";
}

Router parse_router(std::string_view name) {
  for (const Router router : {Router::least_loaded, Router::round_robin})
    if (name == name_of(router)) return router;
  throw_error("--router: expected least-loaded or round-robin, found \"{}\"", name);
}

SimulationResult simulate(const SimulationOptions& options, const StepSeconds& step_seconds,
                          RequestSource& source) {
  return Simulation(options, step_seconds, source).run();
}

}  // namespace chorale::simulate
