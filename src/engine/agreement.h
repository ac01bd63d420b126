// Whether the processes of a world were given the same: ranks with other weights, types or limits would serve
// nonsense without a word, or fail at the first request.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "comm/mpi/mpi_world.h"
#include "engine/load_options.h"
#include "io/checkpoint.h"
#include "io/model_config.h"
#include "model/weights.h"
#include "parallel/strategy.h"

namespace chorale::engine {

// One thing that is to be alike on all ranks. Neither text has line ends or tabs.
struct Given {
  std::string what;   // "config.json", "--dtype"
  std::string value;  // as people write it, or a digest

  bool operator==(const Given&) const = default;
};

// What a process has found to load, before anything is loaded.
struct RankInputs {
  const LoadOptions& options;
  const io::ModelConfig& config;
  const model::WeightFormats& formats;
  const parallel::Strategy& strategy;
  const io::Checkpoint* checkpoint = nullptr;  // null: random weights
  std::string device = "cpu";
};

// All that this process was given: the build, the model's files, the strategy, types and limits, always in
// this order. Reads some bytes of every tensor, on so many threads. Throws Error when a file cannot be read.
std::vector<Given> what_was_given(const RankInputs& inputs, int threads);

// The first difference, told as "config.json: 1234, rank 0 has 5678"; empty when there is none.
std::string difference(std::span<const Given> first, std::span<const Given> other);

// Collective. Throws Error on every rank when one was given something else than rank 0: names the first such
// rank and what differs. The others wait a little, so that it is rank 0 that tells.
void require_agreement(const comm::MpiWorld& world, std::span<const Given> given);

}  // namespace chorale::engine
