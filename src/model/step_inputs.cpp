#include "model/step_inputs.h"

#include <algorithm>
#include <numeric>

#include "base/copy.h"
#include "parallel/topology.h"

namespace chorale::model {
namespace {

size_t vector_bytes(int64_t n) {
  return Arena::dense_matrix_bytes(DType::i32, 1, n);
}

}  // namespace

StepBuffers::StepBuffers(const StepLimits& limits, int64_t tp_size, int64_t tp_rank, Device device)
    : tp_rank_(tp_rank),
      tokens_of_(static_cast<size_t>(tp_size)),
      logits_rows_of_(static_cast<size_t>(tp_size)),
      arena_(bytes(limits), device),
      staging_(device.is_host_memory()
                   ? std::nullopt
                   : std::optional<Arena>(std::in_place, bytes(limits), device.staging())),
      token_ids_(take_vector(limits.max_tokens)),
      positions_(take_vector(limits.max_tokens)),
      logits_rows_(take_vector(limits.max_logits_rows)),
      segments_(take_vector(limits.max_segments * SegmentColumn::count)),
      block_tables_(take_vector(limits.max_table_blocks)) {
  home_logits_tokens_.reserve(static_cast<size_t>(limits.max_logits_rows));
}

size_t StepBuffers::bytes(const StepLimits& limits) {
  return 2 * vector_bytes(limits.max_tokens) + vector_bytes(limits.max_logits_rows) +
         vector_bytes(limits.max_segments * SegmentColumn::count) + vector_bytes(limits.max_table_blocks);
}

StepBuffers::StagedVector StepBuffers::take_vector(int64_t n) {
  const Tensor device = arena_.dense_matrix(DType::i32, 1, n);
  return {device, staging_ ? staging_->dense_matrix(DType::i32, 1, n) : device};
}

void StepBuffers::split_tokens(int64_t num_tokens) {
  const auto tp_size = static_cast<int64_t>(tokens_of_.size());
  for (int64_t r = 0; r < tp_size; ++r) {
    tokens_of_[static_cast<size_t>(r)] =
        parallel::even_range(num_tokens, static_cast<int>(tp_size), static_cast<int>(r)).size();
  }
}

// The wanted tokens are in ascending order, so each rank's are neighbours too.
void StepBuffers::split_logits_rows(std::span<const int32_t> logits_tokens) {
  home_logits_tokens_.clear();
  size_t next = 0;
  int64_t first = 0;
  for (size_t r = 0; r < tokens_of_.size(); ++r) {
    const int64_t end = first + tokens_of_[r];
    logits_rows_of_[r] = 0;
    for (; next < logits_tokens.size() && logits_tokens[next] < end; ++next) {
      ++logits_rows_of_[r];
      if (static_cast<int64_t>(r) == tp_rank_) {
        home_logits_tokens_.push_back(static_cast<int32_t>(logits_tokens[next] - first));
      }
    }
    first = end;
  }
  CHORALE_CHECK(next == logits_tokens.size(), "logits of token {} of {}", logits_tokens[next], first);
}

StepInputs StepBuffers::upload(const Stream& stream, const HostStep& step) {
  // The first n entries of a vector, once the host has written them.
  const auto send = [&](const StagedVector& vector, int64_t n) {
    const Tensor view = vector.device.first_columns(n);
    if (staging_) copy(stream, vector.host.first_columns(n), view);
    return view;
  };
  const auto fill = [&](const StagedVector& vector, std::span<const int32_t> source) {
    const auto n = static_cast<int64_t>(source.size());
    CHORALE_CHECK(n <= vector.host.columns(), "{} entries, room for {}", n, vector.host.columns());
    std::copy(source.begin(), source.end(), vector.host.data<int32_t>());
    return send(vector, n);
  };

  StepInputs in;
  in.token_ids = fill(token_ids_, step.token_ids);
  in.batch.block_tables = fill(block_tables_, step.block_tables);
  if (step.min_table_blocks > in.batch.block_tables.columns())
    in.batch.block_tables = block_tables_.device.first_columns(step.min_table_blocks);
  split_tokens(in.num_tokens());
  split_logits_rows(step.logits_tokens);
  in.home_logits_rows = fill(logits_rows_, home_logits_tokens_);
  in.num_logits_rows = static_cast<int64_t>(step.logits_tokens.size());
  in.home = {.tokens_of = tokens_of_,
             .logits_rows_of = logits_rows_of_,
             .first = std::accumulate(tokens_of_.begin(), tokens_of_.begin() + tp_rank_, int64_t{0}),
             .count = tokens_of_[static_cast<size_t>(tp_rank_)]};

  const auto num_segments = static_cast<int64_t>(step.segments.size());
  CHORALE_CHECK(num_segments * SegmentColumn::count <= segments_.host.columns(), "{} segments", num_segments);
  int32_t* row = segments_.host.data<int32_t>();
  int32_t* position = positions_.host.data<int32_t>();
  for (const HostSegment& segment : step.segments) {
    row[SegmentColumn::first_token] = static_cast<int32_t>(segment.first_token);
    row[SegmentColumn::num_tokens] = static_cast<int32_t>(segment.num_tokens);
    row[SegmentColumn::first_position] = static_cast<int32_t>(segment.first_position);
    row[SegmentColumn::first_block] = static_cast<int32_t>(segment.first_block);
    row += SegmentColumn::count;
    for (int64_t i = 0; i < segment.num_tokens; ++i) {
      position[segment.first_token + i] = static_cast<int32_t>(segment.first_position + i);
    }
    in.batch.longest_segment = std::max(in.batch.longest_segment, segment.num_tokens);
  }
  in.positions = send(positions_, in.num_tokens());
  in.batch.segments =
      send(segments_, num_segments * SegmentColumn::count).reshaped(num_segments, SegmentColumn::count);
  return in;
}

}  // namespace chorale::model
