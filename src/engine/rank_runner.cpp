#include "engine/rank_runner.h"

#include <array>
#include <chrono>
#include <thread>
#include <utility>

#include "base/copy.h"
#include "base/error.h"
#include "kernels/sample.h"

namespace chorale::engine {

RankRunner::RankRunner(Parts parts)
    : pool_(parts.device.is_cpu() ? parts.num_threads : 1),
      queue_(parts.device.is_cpu() ? nullptr : parts.device.driver()->make_queue()),
      stream_(queue_ == nullptr ? Stream(pool_, parts.isa, parts.profile) : Stream(*queue_, parts.profile)),
      max_table_blocks_(parts.limits.max_table_blocks),
      records_steps_(parts.records_steps && queue_ != nullptr && queue_->can_record() &&
                     parts.groups.attention.can_be_recorded() && parts.groups.experts.can_be_recorded()),
      inputs_(parts.limits, parts.part.extent.tp_size, parts.part.extent.tp_rank, stream_.device()),
      attention_group_(parts.groups.attention),
      cache_(parts.config, parts.part.extent.kv_heads, parts.kv_dtype, parts.num_blocks, stream_.device()),
      model_(stream_, {.config = parts.config,
                       .weights = std::move(parts.weights),
                       .limits = parts.limits,
                       .extent = parts.part.extent,
                       .groups = std::move(parts.groups),
                       .expert_slots = parts.part.expert_slots}),
      traffic_(parts.traffic) {
  if (parts.profile != nullptr) parts.profile->set_queue(queue_.get());
  if (queue_ != nullptr) {
    // Where ranks wait for each other on their devices, those that wait for this one are to tell first.
    const double patience = parts.watch ? 1.5 : 1.0;
    queue_->set_time_limit(std::chrono::duration<double>(parts.step_timeout * patience));
    queue_->set_watch(std::move(parts.watch));
  }
  segments_.reserve(static_cast<size_t>(parts.limits.max_segments));
  if (parts.part.extent.tp_rank != 0) return;
  sampler_.emplace(sample_limits(parts.config, parts.limits, stream_.device().kind()), stream_.device());
  if (attention_group_.size() > 1) {
    placed_memory_.emplace(Arena::dense_matrix_bytes(DType::i32, 1, parts.limits.max_tokens),
                           stream_.device());
    placed_ids_ = placed_memory_->dense_matrix(DType::i32, 1, parts.limits.max_tokens);
  }
  if (stream_.device().is_host_memory()) return;
  const int64_t rows = parts.limits.max_logits_rows, vocab = parts.config.vocab_size;
  host_memory_.emplace(Arena::dense_matrix_bytes(DType::f32, rows, vocab), stream_.device().staging());
  host_logits_ = host_memory_->dense_matrix(DType::f32, rows, vocab);
}

void RankRunner::forward(const StepPlan& plan, int64_t most_tokens, model::StepObserver* observer) {
  segments_.clear();
  for (const SequenceChunk& chunk : plan.chunks) {
    segments_.push_back({.first_token = chunk.first_token,
                         .num_tokens = chunk.num_tokens,
                         .first_position = chunk.first_position,
                         .first_block = chunk.first_block_index});
  }
  const std::optional<StepShape> shape = records_steps_ && observer == nullptr && !is_profiled()
                                             ? decode_shape(plan, max_table_blocks_, most_tokens)
                                             : std::nullopt;
  const model::StepInputs in = inputs_.upload(stream_, {.token_ids = plan.token_ids,
                                                        .sampled_rows = plan.sampled_rows,
                                                        .segments = segments_,
                                                        .block_tables = plan.block_tables,
                                                        .logits_tokens = plan.logits_tokens,
                                                        .min_table_blocks = shape ? shape->table_blocks : 0,
                                                        .most_tokens = round_up_tokens(most_tokens)});
  if (!in.sampled_rows.empty()) place_sampled(in);
  logits_ = shape ? run_recorded(*shape, in) : model_.forward(stream_, in, cache_, observer);
}

// The group's first rank has what was sampled, and tells the others.
void RankRunner::place_sampled(const model::StepInputs& in) {
  if (sampler_) place_tokens(stream_, sampler_->tokens(), in.sampled_rows, in.token_ids);
  const auto ranks = static_cast<size_t>(attention_group_.size());
  if (ranks == 1) return;
  std::array<int64_t, comm::kMaxRanks> rows{1};
  const Tensor mine = in.token_ids.first_rows(sampler_ ? 1 : 0);
  const Tensor all = sampler_ ? placed_ids_.first_columns(in.num_tokens()) : in.token_ids;
  attention_group_.all_gather_rows(stream_, mine, std::span(rows).first(ranks), all, comm::Purpose::control);
}

namespace {

comm::Traffic sum(comm::Traffic a, const comm::Traffic& b) {
  for (size_t p = 0; p < comm::kNumPurposes; ++p) {
    a.bytes[p] += b.bytes[p];
    a.operations[p] += b.operations[p];
  }
  return a;
}

comm::Traffic difference(comm::Traffic a, const comm::Traffic& b) {
  for (size_t p = 0; p < comm::kNumPurposes; ++p) {
    a.bytes[p] -= b.bytes[p];
    a.operations[p] -= b.operations[p];
  }
  return a;
}

}  // namespace

// The first step of a shape runs op by op, the second is recorded.
Tensor RankRunner::run_recorded(const StepShape& shape, const model::StepInputs& in) {
  const StepRecordings::Step* step = recordings_.find(shape);
  if (step == nullptr && !recordings_.is_worthwhile(shape)) {
    recordings_.add(shape, {});
    return model_.forward(stream_, in, cache_);
  }
  if (step == nullptr) {
    const comm::Traffic before = traffic_ != nullptr ? *traffic_ : comm::Traffic();
    queue_->begin_recording();
    const Tensor logits = model_.forward(stream_, in, cache_);
    std::unique_ptr<Recording> work = queue_->end_recording();
    const comm::Traffic traffic = traffic_ != nullptr ? difference(*traffic_, before) : comm::Traffic();
    step = &recordings_.add(shape, {std::move(work), logits, traffic});
  } else if (traffic_ != nullptr) {
    *traffic_ = sum(*traffic_, step->traffic);
  }
  queue_->replay(*step->work);
  return step->logits;
}

void RankRunner::start_sampling(const SamplePlan& plan) {
  sampler_.value().start(stream_, logits_, plan);
}

SampledStep RankRunner::collect() {
  return sampler_.value().collect(stream_);
}

Tensor RankRunner::logits() {
  if (!host_memory_) return logits_;
  const Tensor on_host = host_logits_.first_rows(logits_.rows());
  copy(stream_, logits_, on_host);
  stream_.synchronize();
  return on_host;
}

// What was recorded has the experts as they lay.
void RankRunner::place_experts(int64_t layer, const model::FeedForwardWeights& experts,
                               const model::ExpertSlots& slots) {
  recordings_.clear();
  model_.place_experts(stream_, layer, experts, slots);
}

template <typename Copy>
void RankRunner::copy_pieces(size_t count, const Copy& copy_piece) {
  if (stream_.device().is_cpu()) {
    pool_.parallel(static_cast<int64_t>(count), [&](int64_t i) { copy_piece(static_cast<size_t>(i)); });
    return;
  }
  for (size_t i = 0; i < count; ++i) copy_piece(i);
  stream_.synchronize();
}

void RankRunner::copy_kv(std::span<const KvPiece> pieces) {
  copy_pieces(pieces.size(), [&](size_t i) {
    const KvHeads& heads = pieces[i].heads;
    copy(stream_, pieces[i].from->cache_.heads(heads.from_block, heads.from_head, heads.num_heads),
         cache_.heads(heads.to_block, heads.to_head, heads.num_heads));
  });
}

namespace {

// Where each piece begins in the rows.
std::vector<int64_t> starts_of(std::span<const KvHeads> pieces, int64_t head_bytes) {
  std::vector<int64_t> starts;
  int64_t start = 0;
  for (const KvHeads& heads : pieces) {
    starts.push_back(start);
    start += heads.num_heads * head_bytes;
  }
  return starts;
}

// Memory of the host in the shape of some heads of a block.
Tensor without_gaps(std::byte* memory, const Tensor& heads) {
  return {memory, heads.dtype(), heads.rows(), heads.columns(), heads.columns()};
}

}  // namespace

void RankRunner::export_kv(std::span<const KvHeads> pieces, std::byte* rows) {
  const std::vector<int64_t> starts = starts_of(pieces, cache_.heads(0, 0, 1).size());
  copy_pieces(pieces.size(), [&](size_t i) {
    const Tensor heads = cache_.heads(pieces[i].from_block, pieces[i].from_head, pieces[i].num_heads);
    copy(stream_, heads, without_gaps(rows + starts[i], heads));
  });
}

void RankRunner::import_kv(std::span<const KvHeads> pieces, std::byte* rows) {
  const std::vector<int64_t> starts = starts_of(pieces, cache_.heads(0, 0, 1).size());
  copy_pieces(pieces.size(), [&](size_t i) {
    const Tensor heads = cache_.heads(pieces[i].to_block, pieces[i].to_head, pieces[i].num_heads);
    copy(stream_, without_gaps(rows + starts[i], heads), heads);
  });
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
