#include "model/step_inputs.h"

#include <algorithm>
#include <numeric>

#include "base/copy.h"
#include "base/math.h"
#include "parallel/topology.h"

namespace chorale::model {
namespace {

size_t vector_bytes(int64_t n) {
  return Arena::dense_matrix_bytes(DType::i32, 1, n);
}

}  // namespace

StepBuffers::StepBuffers(const StepLimits& limits, int64_t tp_size, int64_t tp_rank, Device device)
    : tp_rank_(tp_rank),
      max_tokens_(limits.max_tokens),
      tokens_of_(static_cast<size_t>(tp_size)),
      logits_rows_of_(static_cast<size_t>(tp_size)),
      arena_(bytes(limits), device),
      staging_(device.is_host_memory()
                   ? std::nullopt
                   : std::optional<Arena>(std::in_place, kStagings * bytes(limits), device.staging())),
      token_ids_(take_vector(limits.max_tokens)),
      sampled_rows_(take_vector(limits.max_tokens)),
      positions_(take_vector(limits.max_tokens)),
      logits_rows_(take_vector(limits.max_logits_rows)),
      segments_(take_vector(limits.max_segments * SegmentColumn::count)),
      block_tables_(take_vector(limits.max_table_blocks)) {
  home_logits_tokens_.reserve(static_cast<size_t>(limits.max_logits_rows));
}

size_t StepBuffers::bytes(const StepLimits& limits) {
  return 3 * vector_bytes(limits.max_tokens) + vector_bytes(limits.max_logits_rows) +
         vector_bytes(limits.max_segments * SegmentColumn::count) + vector_bytes(limits.max_table_blocks);
}

StepBuffers::StagedVector StepBuffers::take_vector(int64_t n) {
  const Tensor device = arena_.dense_matrix(DType::i32, 1, n);
  StagedVector vector{.device = device, .host = {}};
  for (Tensor& host : vector.host) host = staging_ ? staging_->dense_matrix(DType::i32, 1, n) : device;
  return vector;
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

// The first n entries of a vector, once the host has written them.
Tensor StepBuffers::send(const Stream& stream, const StagedVector& vector, int64_t n) const {
  const Tensor view = vector.device.first_columns(n);
  if (staging_) copy(stream, vector.host[turn_].first_columns(n), view);
  return view;
}

Tensor StepBuffers::fill(const Stream& stream, const StagedVector& vector,
                         std::span<const int32_t> source) const {
  const auto n = std::ssize(source);
  const Tensor& host = vector.host[turn_];
  CHORALE_CHECK(n <= host.columns(), "{} entries, room for {}", n, host.columns());
  std::copy(source.begin(), source.end(), host.data<int32_t>());
  return send(stream, vector, n);
}

StepInputs StepBuffers::upload(const Stream& stream, const HostStep& step) {
  turn_ = (turn_ + 1) % kStagings;
  stream.wait(sent_[turn_]);
  StepInputs in;
  in.token_ids = fill(stream, token_ids_, step.token_ids);
  if (!step.sampled_rows.empty()) in.sampled_rows = fill(stream, sampled_rows_, step.sampled_rows);
  in.batch.block_tables = fill(stream, block_tables_, step.block_tables);
  if (step.min_table_blocks > in.batch.block_tables.columns())
    in.batch.block_tables = block_tables_.device.first_columns(step.min_table_blocks);
  split_tokens(in.num_tokens());
  split_logits_rows(step.logits_tokens);
  in.home_logits_rows = fill(stream, logits_rows_, home_logits_tokens_);
  in.num_logits_rows = std::ssize(step.logits_tokens);
  in.most_home_tokens =
      ceil_div(step.most_tokens > 0 ? step.most_tokens : max_tokens_, std::ssize(tokens_of_));
  in.home = {.tokens_of = tokens_of_,
             .logits_rows_of = logits_rows_of_,
             .first = std::accumulate(tokens_of_.begin(), tokens_of_.begin() + tp_rank_, int64_t{0}),
             .count = tokens_of_[static_cast<size_t>(tp_rank_)]};
  write_segments(stream, step.segments, in);
  sent_[turn_] = stream.record();
  return in;
}

// And the positions of all tokens.
void StepBuffers::write_segments(const Stream& stream, std::span<const HostSegment> segments,
                                 StepInputs& in) const {
  const auto num_segments = std::ssize(segments);
  const Tensor& host = segments_.host[turn_];
  CHORALE_CHECK(num_segments * SegmentColumn::count <= host.columns(), "{} segments", num_segments);
  int32_t* row = host.data<int32_t>();
  int32_t* position = positions_.host[turn_].data<int32_t>();
  for (const HostSegment& segment : segments) {
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
  in.positions = send(stream, positions_, in.num_tokens());
  in.batch.segments = send(stream, segments_, num_segments * SegmentColumn::count)
                          .reshaped(num_segments, SegmentColumn::count);
}

}  // namespace chorale::model
