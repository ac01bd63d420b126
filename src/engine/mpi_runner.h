// Ranks as processes that an MPI launcher has started. Rank 0 drives: requests enter there, it sends every
// step to all ranks, and the logits of all data-parallel groups come to it. The others run steps until they
// are told to stop.
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

namespace chorale::engine {

class MpiRunner : public ParallelRunner {
 public:
  // Collective. The world must outlive the runner.
  MpiRunner(const RunnerParts& parts, comm::MpiWorld& world);
  // On rank 0, tells the others to stop, unless something has failed.
  ~MpiRunner() override;
  MpiRunner(const MpiRunner&) = delete;
  MpiRunner& operator=(const MpiRunner&) = delete;

  // On rank 0:
  void run_dp_groups(std::span<const StepPlan* const> plans,
                     std::span<std::span<const float>> logits) override;
  std::vector<int64_t> expert_load() override;
  std::optional<std::string> failure() const override;

  // On the other ranks: runs steps until rank 0 stops. Throws comm::CollectiveError that names the rank when
  // one fails.
  void serve_steps() override;

  // This rank's alone.
  std::vector<comm::Traffic> traffic() const override { return {traffic_}; }

 private:
  void announce(int64_t what);
  std::vector<int64_t> sum_expert_load();
  void broadcast_plans(std::span<const StepPlan* const> plans);
  void run_own(const StepPlan& plan, std::span<std::span<const float>> logits);

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
  Buffer gathered_;                // logits of all groups, on rank 0 where there are several
  std::vector<int32_t> message_;   // a step as it is sent
  std::vector<StepPlan> plans_;    // a step as it was received
  std::vector<int64_t> num_rows_;  // of logits, [dp_size]
  int64_t num_steps_ = 0;          // that were begun
  bool failed_ = false;
};

}  // namespace chorale::engine
