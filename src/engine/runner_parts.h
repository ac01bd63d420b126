// What both kinds of runner are made from: ranks as threads of one process, and ranks as processes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/instruction_set.h"
#include "base/op_profile.h"
#include "comm/communicator.h"
#include "comm/device_links.h"
#include "engine/parallel_plan.h"
#include "engine/rank_runner.h"
#include "engine/stored_weights.h"
#include "io/model_config.h"
#include "model/rank_plan.h"
#include "model/step_inputs.h"
#include "model/weights.h"

namespace chorale::engine {

struct RunnerParts {
  const io::ModelConfig& config;
  const ParallelPlan& plan;
  // What is stored: for all ranks of this process, or for each rank. It must outlive the runner.
  std::vector<const StoredWeights*> stored;
  model::StepLimits limits;
  int64_t num_blocks = 0;        // in the KV cache of each data-parallel group
  int64_t num_spare_blocks = 0;  // so many of them are ModelRunner::num_spare_blocks()
  DType kv_dtype = DType::bf16;
  std::vector<Device> devices;  // likewise
  comm::Collectives collectives = comm::Collectives::automatic;
  InstructionSet isa = InstructionSet::portable;
  int threads_per_rank = 1;
  double collective_timeout = 10;  // seconds; also what a device may take for a step
  bool records_steps = true;       // decode steps, where the device can
  std::optional<InjectedFault> fault;
  OpProfile* profile = nullptr;  // gets the ops of the first rank

  const StoredWeights& stored_of(int rank) const {
    return *(stored.size() == 1 ? stored[0] : stored[static_cast<size_t>(rank)]);
  }
  const Device& device_of(int rank) const {
    return devices.size() == 1 ? devices[0] : devices[static_cast<size_t>(rank)];
  }
  DeviceKind device_kind() const { return devices[0].kind(); }
};

// The groups of a rank, split off the world's communicator. Collective.
model::RankGroups split_groups(const comm::Communicator& world, const parallel::Topology& topology);

// What a rank of the plan is made from. `groups` are empty in a world of one.
RankRunner::Parts parts_of(const RunnerParts& parts, int rank, model::RankGroups groups);

}  // namespace chorale::engine
