// All ranks as threads of this process, which share the weights. A world of one runs on the caller's thread.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "comm/local/local_world.h"
#include "engine/parallel_runner.h"
#include "engine/rank_runner.h"
#include "engine/runner_parts.h"

namespace chorale::engine {

class LocalRunner : public ParallelRunner {
 public:
  explicit LocalRunner(const RunnerParts& parts);
  ~LocalRunner() override;
  LocalRunner(const LocalRunner&) = delete;
  LocalRunner& operator=(const LocalRunner&) = delete;

  // Throws Error that names the rank when one fails; the runner is of no use after that.
  void forward(std::span<const StepPlan* const> plans) override;
  void sample(std::span<const SamplePlan* const> plans, std::span<SampledStep> sampled) override;
  std::span<const float> logits() override;

  std::vector<int64_t> expert_load() override;
  std::vector<std::vector<int64_t>> expert_load_by_rank() const override;
  std::vector<comm::Traffic> traffic() const override { return traffic_; }

 private:
  struct Failure {
    int rank = 0;
    bool is_cause = false;  // not only the news of another rank's failure
    std::string what;
  };

  // What all ranks do at once: a forward pass, or, where it has plans for that, sampling.
  struct Work {
    std::span<const StepPlan* const> forward;
    std::span<const SamplePlan* const> sample;
    std::span<SampledStep> sampled;
  };

  void run_ranks(const Work& work);
  void run_rank(int rank, const Work& work);
  void rank_loop(const RunnerParts& parts, int rank);
  void record_failure(int rank, bool is_cause, const char* what);
  void wait_for_ranks();

  const double timeout_;                              // seconds
  std::vector<comm::Traffic> traffic_;                // [world]
  std::unique_ptr<comm::LocalWorld> world_;           // null for a world of one
  std::vector<std::unique_ptr<RankRunner>> runners_;  // [world]

  // The work of all ranks, under mutex_.
  std::mutex mutex_;
  std::condition_variable start_;
  std::condition_variable done_;
  int64_t num_works_ = 0;  // that were begun
  int64_t num_steps_ = 0;  // forward passes among them
  int busy_ = 0;           // ranks that have not finished
  bool stopping_ = false;
  std::optional<Failure> failure_;
  Work work_;

  std::vector<std::thread> threads_;  // last: they use everything above
};

}  // namespace chorale::engine
