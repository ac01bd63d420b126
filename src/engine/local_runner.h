// All ranks as threads of this process, which share the weights. A world of one runs on the caller's thread.
#pragma once

#include <array>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "comm/device_links.h"
#include "comm/local/local_world.h"
#include "engine/parallel_runner.h"
#include "engine/rank_runner.h"
#include "engine/runner_parts.h"

namespace chorale::engine {

class LocalRunner : public ParallelRunner {
 public:
  // What `parts` refers to must outlive the runner.
  explicit LocalRunner(const RunnerParts& parts);
  ~LocalRunner() override;
  LocalRunner(const LocalRunner&) = delete;
  LocalRunner& operator=(const LocalRunner&) = delete;

  // Each throws Error that names the rank when one has failed; the runner is of no use after that.
  void forward(std::span<const StepPlan* const> plans) override;
  void start_sampling(std::span<const SamplePlan* const> plans) override;
  void collect(std::span<SampledStep> sampled) override;
  bool runs_ahead() const override { return runs_ahead_; }
  void synchronize() override;
  std::span<const float> logits() override;

  std::vector<int64_t> expert_load() override;
  std::vector<std::vector<int64_t>> expert_load_by_rank() const override;
  std::vector<comm::Traffic> traffic() const override { return traffic_; }
  const parallel::ExpertPlacement* movable_experts() const override;
  uint64_t place_experts(int layer, const parallel::ExpertPlacement& placement) override;
  // `from` must be a LocalRunner.
  uint64_t copy_kv(ModelRunner& from, std::span<const KvBlockMove> moves) override;

 private:
  struct Failure {
    int rank = 0;
    bool is_cause = false;  // not only the news of another rank's failure
    std::string what;
  };

  struct KvTransfer {
    const LocalRunner* from = nullptr;
    std::span<const KvBlockMove> moves;
  };

  // What all ranks do: a forward pass, or, where it has plans for that, sampling, or a copy of keys and
  // values.
  struct Work {
    std::span<const StepPlan* const> forward;
    std::span<const SamplePlan* const> sample;
    const KvTransfer* transfer = nullptr;
    int64_t step = 0;  // forward passes that were begun, this one among them
  };
  // Works that may be given before the first of them is done: two steps.
  static constexpr int64_t kMaxGiven = 4;

  void give(const Work& work);
  void run_rank(int rank, const Work& work);
  void copy_to_rank(int rank, const KvTransfer& transfer);
  void rank_loop(int rank);
  void record_failure(int rank, bool is_cause, const char* what);
  void wait_for_ranks(int64_t works);
  bool has_done(int64_t works) const;

  const RunnerParts parts_;
  const double timeout_;  // seconds
  const bool runs_ahead_;
  std::vector<comm::Traffic> traffic_;                // [world]
  std::unique_ptr<comm::LocalWorld> world_;           // null for a world of one
  std::unique_ptr<comm::DeviceLinks> links_;          // likewise
  std::vector<std::unique_ptr<RankRunner>> runners_;  // [world]

  int64_t num_steps_ = 0;             // forward passes that were begun
  int64_t last_sampling_ = 0;         // the number of the work that samples, of several ranks
  std::vector<SampledStep> sampled_;  // [dp_size], of the last start_sampling(), likewise

  // The works of all ranks, under mutex_.
  std::mutex mutex_;
  std::condition_variable start_;
  std::condition_variable done_;
  int64_t num_given_ = 0;
  std::array<Work, kMaxGiven> works_;  // work number w, the first of which is 1, at w % kMaxGiven
  std::vector<int64_t> num_done_;      // [world]; -1 until the rank is built
  bool stopping_ = false;
  std::optional<Failure> failure_;

  std::vector<std::thread> threads_;  // last: they use everything above
};

}  // namespace chorale::engine
