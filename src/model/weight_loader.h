// Fills a buffer of weights, on whatever device, from a checkpoint, or with seeded random values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/progress_bar.h"
#include "base/thread_pool.h"
#include "io/checkpoint.h"
#include "io/model_config.h"
#include "model/weights.h"

namespace chorale::model {

// Throws Error that names the file and the tensor, what was expected and what was found: a tensor is missing,
// has another shape or type, or is not part of the model.
void check_tensors(const io::Checkpoint& checkpoint, const io::ModelConfig& config);

// Bytes that load_weights reads from the checkpoint, as its progress counts them.
uint64_t bytes_to_load(const io::Checkpoint& checkpoint, const WeightPlan& plan);

// Converts and packs every tensor of the plan, in parallel and in the order of the files, and drops the pages
// of what was read. The checkpoint must have passed check_tensors. Returns the names of tensors that have NaN
// values. Throws Error that names file and offset when a file cannot be read.
std::vector<std::string> load_weights(const io::Checkpoint& checkpoint, const WeightPlan& plan,
                                      const Buffer& memory, ThreadPool& pool, ProgressBar& progress);

// Random weights, uniform with the standard deviation 0.02 of an untrained model, norms near 1. A value
// depends on the seed, the tensor's name and its place in the tensor, so it is the same for any dtype,
// threads and sharding.
void fill_random_weights(const WeightPlan& plan, uint64_t seed, const Buffer& memory, ThreadPool& pool,
                         ProgressBar& progress);

}  // namespace chorale::model
