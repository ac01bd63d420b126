#include "parallel/prediction.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/math.h"

namespace chorale::parallel {
namespace {

// Decoding that only grows its context is followed in this many steps at least.
constexpr int64_t kDecodeStrides = 32;

// Requests that have got their first token in the same step.
struct Cohort {
  int64_t requests = 0;
  int64_t generated = 0;
};

// A value with how often it was seen.
using Samples = std::vector<std::pair<double, int64_t>>;

double quantile(Samples& samples, double part) {
  if (samples.empty()) return 0;
  std::sort(samples.begin(), samples.end());
  int64_t all = 0;
  for (const auto& sample : samples) all += sample.second;
  const double wanted = part * static_cast<double>(all);
  int64_t seen = 0;
  for (const auto& [value, times] : samples) {
    seen += times;
    if (static_cast<double>(seen) >= wanted) return value;
  }
  return samples.back().first;
}

// One data-parallel group.
class GroupRun {
 public:
  GroupRun(int64_t requests, const UniformWorkload& workload, int64_t most_running, int64_t budget)
      : workload_(workload), most_running_(most_running), budget_(budget), waiting_(requests) {}

  bool is_done() const { return waiting_ == 0 && running_.empty(); }
  bool has_prompts() const { return waiting_ > 0 && running_requests() < most_running_; }

  // Steps that are alike from here on but for the context.
  int64_t equal_steps() const {
    int64_t steps = workload_.new_tokens;
    for (const Cohort& cohort : running_) steps = std::min(steps, workload_.new_tokens - cohort.generated);
    return std::max<int64_t>(steps, 1);
  }

  // What it does in the middle of the next `steps`.
  GroupLoad plan(int64_t steps) {
    GroupLoad load;
    for (const Cohort& cohort : running_) {
      load.tokens += cohort.requests;
      load.attended_tokens +=
          cohort.requests * (workload_.prompt_tokens + cohort.generated + (steps - 1) / 2);
    }
    load.sequences = load.logits_rows = load.tokens;
    started_ = 0;
    taken_ = 0;
    int64_t done = prefilled_;
    while (taken_ < budget_ && started_ < waiting_ && running_requests() + started_ < most_running_) {
      const int64_t tokens = std::min(budget_ - taken_, workload_.prompt_tokens - done);
      load.attended_tokens += tokens * done + tokens * (tokens + 1) / 2;
      load.tokens += tokens;
      ++load.sequences;
      taken_ += tokens;
      done += tokens;
      if (done < workload_.prompt_tokens) break;
      ++started_;
      ++load.logits_rows;
      done = 0;
    }
    left_ = done;
    return load;
  }

  // The planned steps took so long each, and `now` is when they end.
  void finish(int64_t steps, double each, double now, Samples& first, Samples& between) {
    const int64_t decoded = running_requests() * steps;
    if (decoded > 0) between.emplace_back(each, decoded);
    for (Cohort& cohort : running_) cohort.generated += steps;
    prefilled_ = left_;
    waiting_ -= started_;
    if (started_ > 0) {
      first.emplace_back(now, started_);
      running_.push_back({started_, 1});
    }
    const int64_t new_tokens = workload_.new_tokens;
    std::erase_if(running_, [&](const Cohort& cohort) { return cohort.generated >= new_tokens; });
  }

 private:
  int64_t running_requests() const {
    int64_t running = 0;
    for (const Cohort& cohort : running_) running += cohort.requests;
    return running;
  }

  const UniformWorkload workload_;
  const int64_t most_running_;
  const int64_t budget_;
  int64_t waiting_;
  int64_t prefilled_ = 0;                       // of the first that waits
  int64_t started_ = 0, taken_ = 0, left_ = 0;  // of the planned step
  std::vector<Cohort> running_;
};

// How many requests a group may run at once.
int64_t most_running(const UniformWorkload& workload, const ScheduleLimits& limits) {
  int64_t running = limits.running_requests;
  if (limits.kv_tokens > 0)
    running = std::min(running, limits.kv_tokens / (workload.prompt_tokens + workload.new_tokens));
  if (running < 1)
    throw_error("a request of {} and {} tokens does not fit into the {} tokens of a group's KV cache",
                workload.prompt_tokens, workload.new_tokens, limits.kv_tokens);
  return running;
}

}  // namespace

Prediction predict(const CostModel& cost, const UniformWorkload& workload, const ScheduleLimits& limits) {
  if (workload.requests < 1 || workload.prompt_tokens < 1 || workload.new_tokens < 1)
    throw_error("a workload has at least one request, prompt token and new token; found {}, {} and {}",
                workload.requests, workload.prompt_tokens, workload.new_tokens);
  const int groups = cost.strategy().dp_size;
  const int64_t running = most_running(workload, limits);
  const int64_t steps_of_prompt = ceil_div(workload.prompt_tokens, limits.prompt_tokens_per_step);
  const int64_t followed =
      std::min(workload.requests, std::max<int64_t>(kMostPromptSteps / steps_of_prompt, 1) * groups);
  std::vector<GroupRun> runs;
  for (int g = 0; g < groups; ++g)
    runs.emplace_back(followed / groups + (g < followed % groups ? 1 : 0), workload, running,
                      limits.prompt_tokens_per_step);

  Prediction prediction;
  Samples first, between;
  StepLoad load;
  load.groups.resize(static_cast<size_t>(groups));
  const auto done = [](const GroupRun& run) { return run.is_done(); };
  while (!std::all_of(runs.begin(), runs.end(), done)) {
    int64_t steps = workload.new_tokens;
    for (const GroupRun& run : runs) {
      if (run.is_done()) continue;
      steps = std::min(steps, run.has_prompts() ? 1 : run.equal_steps());
    }
    steps = std::min(steps, std::max<int64_t>(1, workload.new_tokens / kDecodeStrides));
    for (size_t g = 0; g < runs.size(); ++g) load.groups[g] = runs[g].plan(steps);
    StepCost step = cost.step(load);
    const double each = step.total();
    for (double& seconds : step.seconds) seconds *= static_cast<double>(steps);
    prediction.parts += step;
    prediction.seconds += each * static_cast<double>(steps);
    prediction.steps += steps;
    for (GroupRun& run : runs) run.finish(steps, each, prediction.seconds, first, between);
  }
  const double last_first = first.back().first;
  prediction.output_rate = static_cast<double>(followed * workload.new_tokens) / prediction.seconds;
  prediction.prompt_rate = static_cast<double>(followed * workload.prompt_tokens) / last_first;
  prediction.first_token_median = quantile(first, 0.5);
  prediction.first_token_p99 = quantile(first, 0.99);
  prediction.between_median = quantile(between, 0.5);
  prediction.between_p99 = quantile(between, 0.99);
  return prediction;
}

}  // namespace chorale::parallel
