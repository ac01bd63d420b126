#include "engine/stored_weights.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "base/log.h"
#include "base/memory_info.h"
#include "base/progress_bar.h"
#include "base/thread_pool.h"
#include "model/weight_loader.h"

namespace chorale::engine {
namespace {

constexpr size_t kMaxNamedTensors = 8;  // in warnings

void warn_of_nan(const std::vector<std::string>& names) {
  for (size_t i = 0; i < std::min(names.size(), kMaxNamedTensors); ++i)
    log::warn("tensor {} has NaN values", names[i]);
  if (names.size() > kMaxNamedTensors) {
    log::warn("{} more tensors have NaN values", names.size() - kMaxNamedTensors);
  }
}

// The names of tensors with NaN values.
std::vector<std::string> fill(const WeightSource& source, const model::WeightPlan& plan, const Buffer& memory,
                              int threads, ProgressBar& progress) {
  ThreadPool pool(threads);
  if (source.checkpoint != nullptr) {
    return model::load_weights(*source.checkpoint, plan, memory, pool, progress);
  }
  model::fill_random_weights(plan, source.seed, memory, pool, progress);
  return {};
}

}  // namespace

void WeightSource::read(const model::WeightPlan& plan, const Buffer& memory, int threads) const {
  ProgressBar progress("Loading weights", 0, false);
  fill(*this, plan, memory, threads, progress);
}

StoredWeights read_weights(const WeightSource& source, model::WeightShard shard, int threads,
                           ReadingNews news) {
  StoredWeights stored;
  stored.shard = std::move(shard);
  const model::WeightPlan plan = model::plan_weights(source.config, source.formats, stored.shard);
  stored.memory = Buffer(plan.bytes, source.device);
  const uint64_t bytes =
      source.checkpoint != nullptr ? model::bytes_to_load(*source.checkpoint, plan) : plan.bytes;
  ProgressBar progress("Loading weights", bytes, news.bar);
  const std::vector<std::string> with_nan = fill(source, plan, stored.memory, threads, progress);
  if (news.log) {
    warn_of_nan(with_nan);
    const double seconds = progress.seconds();
    log::info("weights: {} in {:.2f} s ({:.2f} GB/s)", format_bytes(bytes), seconds,
              static_cast<double>(bytes) / 1e9 / std::max(seconds, 1e-9));
  }
  stored.weights = model::bind_weights(source.config, source.formats, stored.shard, stored.memory);
  return stored;
}

}  // namespace chorale::engine
