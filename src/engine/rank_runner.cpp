#include "engine/rank_runner.h"

#include <chrono>
#include <thread>
#include <utility>

#include "base/copy.h"
#include "base/error.h"

namespace chorale::engine {

RankRunner::RankRunner(Parts parts)
    : pool_(parts.device.is_cpu() ? parts.num_threads : 1),
      queue_(parts.device.is_cpu() ? nullptr : parts.device.driver()->make_queue()),
      stream_(queue_ == nullptr ? Stream(pool_, parts.isa, parts.profile) : Stream(*queue_, parts.profile)),
      max_table_blocks_(parts.limits.max_table_blocks),
      records_steps_(parts.records_steps && queue_ != nullptr && queue_->can_record()),
      inputs_(parts.limits, parts.part.extent.tp_size, parts.part.extent.tp_rank, stream_.device()),
      cache_(parts.config, parts.part.extent.kv_heads, parts.kv_dtype, parts.num_blocks, stream_.device()),
      model_(stream_, {.config = parts.config,
                       .weights = std::move(parts.weights),
                       .limits = parts.limits,
                       .extent = parts.part.extent,
                       .groups = std::move(parts.groups),
                       .expert_slots = parts.part.expert_slots}) {
  if (parts.profile != nullptr) parts.profile->set_queue(queue_.get());
  if (queue_ != nullptr) queue_->set_time_limit(std::chrono::duration<double>(parts.step_timeout));
  segments_.reserve(static_cast<size_t>(parts.limits.max_segments));
  if (parts.part.extent.tp_rank != 0) return;
  sampler_.emplace(sample_limits(parts.config, parts.limits, stream_.device().kind()), stream_.device());
  if (stream_.device().is_host_memory()) return;
  const int64_t rows = parts.limits.max_logits_rows, vocab = parts.config.vocab_size;
  host_memory_.emplace(Arena::dense_matrix_bytes(DType::f32, rows, vocab), stream_.device().staging());
  host_logits_ = host_memory_->dense_matrix(DType::f32, rows, vocab);
}

void RankRunner::forward(const StepPlan& plan, model::StepObserver* observer) {
  stream_.synchronize();  // the last step's inputs are done with
  segments_.clear();
  for (const SequenceChunk& chunk : plan.chunks) {
    segments_.push_back({.first_token = chunk.first_token,
                         .num_tokens = chunk.num_tokens,
                         .first_position = chunk.first_position,
                         .first_block = chunk.first_block_index});
  }
  const std::optional<StepShape> shape = records_steps_ && observer == nullptr && !is_profiled()
                                             ? decode_shape(plan, max_table_blocks_)
                                             : std::nullopt;
  const model::StepInputs in = inputs_.upload(stream_, {.token_ids = plan.token_ids,
                                                        .segments = segments_,
                                                        .block_tables = plan.block_tables,
                                                        .logits_tokens = plan.logits_tokens,
                                                        .min_table_blocks = shape ? shape->table_blocks : 0});
  logits_ = shape ? run_recorded(*shape, in) : model_.forward(stream_, in, cache_, observer);
}

// The first step of a shape runs op by op, the second is recorded.
Tensor RankRunner::run_recorded(const StepShape& shape, const model::StepInputs& in) {
  const StepRecordings::Step* step = recordings_.find(shape);
  if (step == nullptr && !recordings_.is_worthwhile(shape)) {
    recordings_.add(shape, {});
    return model_.forward(stream_, in, cache_);
  }
  if (step == nullptr) {
    queue_->begin_recording();
    const Tensor logits = model_.forward(stream_, in, cache_);
    step = &recordings_.add(shape, {queue_->end_recording(), logits});
  }
  queue_->replay(*step->work);
  return step->logits;
}

SampledStep RankRunner::sample(const SamplePlan& plan) {
  return sampler_.value().sample(stream_, logits_, plan);
}

Tensor RankRunner::logits() {
  if (!host_memory_) return logits_;
  const Tensor on_host = host_logits_.first_rows(logits_.rows());
  copy(stream_, logits_, on_host);
  stream_.synchronize();
  return on_host;
}

void RankRunner::inject(DeviceFault fault) {
  if (queue_ != nullptr) return queue_->inject(fault);
  while (fault == DeviceFault::hang) std::this_thread::sleep_for(std::chrono::seconds(1));
  throw_error("a failure was asked for");
}

void RankRunner::add_expert_load(std::vector<int64_t>& total) const {
  const std::vector<int64_t> load = download<int64_t>(stream_, model_.expert_load());
  total.resize(load.size());
  for (size_t i = 0; i < load.size(); ++i) total[i] += load[i];
}

}  // namespace chorale::engine
