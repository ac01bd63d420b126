// Ranks as processes that an MPI launcher has started. Rank 0 drives: requests enter there, it sends every
// step to all ranks, and the tokens of all data-parallel groups, sampled by their first ranks, come to it.
// The others do what they are told (mpi_ranks.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "engine/expert_store.h"
#include "engine/mpi_channel.h"
#include "engine/parallel_runner.h"
#include "engine/rank_runner.h"
#include "engine/runner_parts.h"
#include "engine/step_message.h"

namespace chorale::engine {

// What `parts` refers to, `stored` and the channel must outlive the runner.
struct MpiParts {
  RunnerParts parts;
  StoredWeights& stored;  // what `parts` has; changes as experts move
  WeightSource source;    // of those
  MpiChannel& channel;
  MpiGroups groups;  // of the plan's strategy
};

class MpiRunner : public ParallelRunner {
 public:
  // Tells the other ranks nothing.
  explicit MpiRunner(const MpiParts& parts);

  // On rank 0. Each call is done when it returns, and nothing runs ahead: to tell the others of a step while
  // one runs would take a thread of its own on every rank.
  void forward(std::span<const StepPlan* const> plans) override;
  void start_sampling(std::span<const SamplePlan* const> plans) override;
  void collect(std::span<SampledStep> sampled) override;
  std::span<const float> logits() override;
  std::vector<int64_t> expert_load() override;
  std::optional<std::string> failure() const override;
  const parallel::ExpertPlacement* movable_experts() const override;
  bool prepare_experts(int layer, const parallel::ExpertPlacement& placement) override;
  uint64_t place_experts(int layer, const parallel::ExpertPlacement& placement) override;
  // `from` must be an MpiRunner of the same channel; its ranks do no further step.
  uint64_t copy_kv(ModelRunner& from, std::span<const KvBlockMove> moves) override;

  // On the other ranks: does what rank 0 has told. Throws comm::CollectiveError that names the rank when one
  // fails.
  void serve(const Announcement& announcement);
  // This rank's part of copy_kv(), whose moves are four numbers each.
  void take_kv(MpiRunner& from, std::span<const int32_t> moves);

  // This rank's alone.
  std::vector<comm::Traffic> traffic() const override { return {channel_.traffic()}; }

 private:
  std::vector<int64_t> sum_expert_load();
  void forward_own(const StepPlan& plan, int64_t most_tokens);
  void sample_own(std::span<const SamplePlan* const> plans);
  void write_layer(int layer, const parallel::ExpertPlacement& placement);
  void fetch_own(std::span<const int32_t> layer_and_slots);
  Outcome fetched_own();
  void place_own(std::span<const int32_t> layer_and_slots);
  void exchange_kv(MpiRunner& from, std::span<const KvBlockMove> moves);

  const RunnerParts parts_;
  MpiChannel& channel_;
  const int rank_;
  const int dp_group_;  // this rank's
  const comm::Communicator leaders_;
  const bool is_leader_;
  ExpertStore experts_;
  std::unique_ptr<RankRunner> runner_;
  std::vector<int32_t> message_;  // a step, or its sampling, as it is sent
  // As they were received; [dp_size].
  std::vector<StepPlan> plans_;
  std::vector<const StepPlan*> plan_pointers_;
  std::vector<SamplePlan> sample_plans_;
  std::vector<const SamplePlan*> sample_pointers_;
  // What came of sampling: this group's rows as they are sent; of all groups, on rank 0.
  SampledStep own_;
  std::vector<int32_t> own_rows_, gathered_rows_;
  std::vector<int64_t> num_rows_;
  std::vector<SampledValues> sampled_;
  int64_t num_steps_ = 0;  // that were begun
  // Where experts lie, and why what is needed for another placement cannot be read.
  parallel::ExpertPlacement placement_;
  std::optional<std::string> fetch_failure_;
  std::vector<int32_t> layer_message_;  // a layer, and the experts in its slots
  // On rank 0: what is fetched, as it was told, and its bytes once that is done.
  std::vector<int32_t> fetching_;
  std::optional<uint64_t> fetched_bytes_;
};

}  // namespace chorale::engine
