// Ranks as processes that an MPI launcher has started. Rank 0 drives: requests enter there, it sends every
// step to all ranks, and the tokens of all data-parallel groups, sampled by their first ranks, come to it.
// The others run steps until they are told to stop.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/mpi/mpi_world.h"
#include "engine/parallel_runner.h"
#include "engine/rank_runner.h"
#include "engine/runner_parts.h"
#include "engine/step_message.h"

namespace chorale::engine {

class MpiRunner : public ParallelRunner {
 public:
  // Collective. The world must outlive the runner.
  MpiRunner(const RunnerParts& parts, comm::MpiWorld& world);
  // On rank 0, tells the others to stop, unless something has failed.
  ~MpiRunner() override;
  MpiRunner(const MpiRunner&) = delete;
  MpiRunner& operator=(const MpiRunner&) = delete;

  // On rank 0. Each call is done when it returns, and nothing runs ahead: to tell the others of a step while
  // one runs would take a thread of its own on every rank.
  void forward(std::span<const StepPlan* const> plans) override;
  void start_sampling(std::span<const SamplePlan* const> plans) override;
  void collect(std::span<SampledStep> sampled) override;
  std::span<const float> logits() override;
  std::vector<int64_t> expert_load() override;
  std::optional<std::string> failure() const override;

  // On the other ranks: runs steps until rank 0 stops. Throws comm::CollectiveError that names the rank when
  // one fails.
  void serve_steps() override;

  // This rank's alone.
  std::vector<comm::Traffic> traffic() const override { return {traffic_}; }

 private:
  // What rank 0 tells all ranks to do next, with so many bytes that follow.
  enum class Work : int64_t { stop, forward, sample, expert_load };
  struct Announcement {
    Work work = Work::stop;
    int64_t bytes = 0;
  };

  template <typename Drive>
  void drive(const Drive& drive);
  void announce(const Announcement& announcement);
  void broadcast_message(const comm::Communicator& group);
  std::vector<int64_t> sum_expert_load();
  void forward_own(const StepPlan& plan);
  void sample_own(std::span<const SamplePlan* const> plans);

  const int dp_group_;  // this rank's
  const int rank_;
  comm::MpiWorld& mpi_;
  ThreadPool pool_{1};
  Stream stream_;  // for collectives, which compute nothing
  comm::Traffic traffic_;
  comm::Communicator world_;
  comm::Communicator leaders_;  // the first ranks of all groups; another one of all other ranks
  bool is_leader_;
  std::unique_ptr<RankRunner> runner_;
  std::vector<int32_t> message_;  // a step, or its sampling, as it is sent
  // As they were received; [dp_size].
  std::vector<StepPlan> plans_;
  std::vector<SamplePlan> sample_plans_;
  std::vector<const SamplePlan*> sample_pointers_;
  // What came of sampling: this group's rows as they are sent; of all groups, on rank 0.
  SampledStep own_;
  std::vector<int32_t> own_rows_, gathered_rows_;
  std::vector<int64_t> num_rows_;
  std::vector<SampledValues> sampled_;
  int64_t num_steps_ = 0;  // that were begun
  bool failed_ = false;
};

}  // namespace chorale::engine
