// The weights that a process stores, and where they come from.
#pragma once

#include <cstdint>

#include "base/device.h"
#include "base/tensor.h"
#include "io/checkpoint.h"
#include "io/model_config.h"
#include "model/weight_shard.h"
#include "model/weights.h"

namespace chorale::engine {

// What it refers to must outlive it.
struct WeightSource {
  const io::ModelConfig& config;
  const model::WeightFormats& formats;
  const io::Checkpoint* checkpoint = nullptr;  // null: random weights
  uint64_t seed = 0;                           // of those
  Device device;                               // where they are to be

  // Fills the places of the plan, on so many threads. Throws Error that names file and offset.
  void read(const model::WeightPlan& plan, const Buffer& memory, int threads) const;
};

struct StoredWeights {
  model::WeightShard shard;
  Buffer memory;
  model::ModelWeights weights;  // in `memory`
};

// How much of the reading people hear of.
struct ReadingNews {
  bool bar = false;  // how far it is
  bool log = false;  // how long it took, and tensors that have NaN values
};

// Throws Error, as WeightSource::read().
StoredWeights read_weights(const WeightSource& source, model::WeightShard shard, int threads,
                           ReadingNews news);

}  // namespace chorale::engine
