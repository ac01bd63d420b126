#include "engine/rank_sampler.h"

#include <algorithm>

#include "base/copy.h"
#include "base/error.h"
#include "base/math.h"
#include "kernels/backend.h"

namespace chorale::engine {
namespace {

constexpr int64_t kTokensAtOnce = 4096;  // of a text that is counted
constexpr int64_t kParamBytes = sizeof(SampleParams);

int64_t mask_words(int64_t vocab_size) {
  return ceil_div<int64_t>(vocab_size, 32);
}

size_t host_bytes(const SampleLimits& limits) {
  const auto dense = &Arena::dense_matrix_bytes;
  return 2 * dense(DType::i32, 1, limits.max_rows) +
         dense(DType::f32, 1, limits.max_rows * (1 + kMaxTopLogprobs)) +
         dense(DType::i32, 1, limits.max_rows * kMaxTopLogprobs);
}

// Only rows that choose a token have a bias, and there is one for each text at most.
int64_t max_biases(const SampleLimits& limits) {
  return limits.max_texts * static_cast<int64_t>(kMaxLogitBias + kMaxStopTokenIds + kMaxEosTokenIds);
}

}  // namespace

SampleLimits sample_limits(const io::ModelConfig& config, const model::StepLimits& limits,
                           DeviceKind device) {
  return {.vocab_size = config.vocab_size,
          .max_rows = limits.max_logits_rows,
          .max_texts = limits.max_segments,
          .max_places = std::min(limits.max_logits_rows, backend_of(device).max_sample_places),
          .device = device};
}

RankSampler::RankSampler(const SampleLimits& limits, Device device)
    : limits_(limits),
      arena_(bytes(limits), device),
      scratch_(arena_.matrix(DType::u8, limits.max_places,
                             sample_scratch_bytes(limits.vocab_size, limits.device))),
      counts_(arena_.matrix(DType::i32, limits.max_texts, limits.vocab_size)),
      text_tokens_(arena_.dense_matrix(DType::i32, 1, kTokensAtOnce)),
      params_(arena_.dense_matrix(DType::u8, limits.max_rows, kParamBytes)),
      bias_offsets_(arena_.dense_matrix(DType::i32, 1, limits.max_rows + 1)),
      bias_tokens_(arena_.dense_matrix(DType::i32, 1, max_biases(limits))),
      biases_(arena_.dense_matrix(DType::f32, 1, max_biases(limits))),
      allowed_(arena_.matrix(DType::i32, limits.max_rows, mask_words(limits.vocab_size))),
      tokens_(arena_.dense_matrix(DType::i32, 1, limits.max_rows)),
      statuses_(arena_.dense_matrix(DType::i32, 1, limits.max_rows)),
      logprobs_(arena_.matrix(DType::f32, limits.max_rows, 1 + kMaxTopLogprobs)),
      top_tokens_(arena_.matrix(DType::i32, limits.max_rows, kMaxTopLogprobs)),
      host_arena_(host_bytes(limits), device.staging()),
      host_tokens_(host_arena_.dense_matrix(DType::i32, 1, limits.max_rows)),
      host_statuses_(host_arena_.dense_matrix(DType::i32, 1, limits.max_rows)),
      host_logprobs_(host_arena_.dense_matrix(DType::f32, 1, limits.max_rows * (1 + kMaxTopLogprobs))),
      host_top_tokens_(host_arena_.dense_matrix(DType::i32, 1, limits.max_rows * kMaxTopLogprobs)) {}

size_t RankSampler::bytes(const SampleLimits& limits) {
  const auto dense = &Arena::dense_matrix_bytes;
  const auto matrix = &Arena::matrix_bytes;
  const int64_t rows = limits.max_rows;
  return matrix(DType::u8, limits.max_places, sample_scratch_bytes(limits.vocab_size, limits.device)) +
         matrix(DType::i32, limits.max_texts, limits.vocab_size) + dense(DType::i32, 1, kTokensAtOnce) +
         dense(DType::u8, rows, kParamBytes) + dense(DType::i32, 1, rows + 1) +
         dense(DType::i32, 1, max_biases(limits)) + dense(DType::f32, 1, max_biases(limits)) +
         matrix(DType::i32, rows, mask_words(limits.vocab_size)) + 2 * dense(DType::i32, 1, rows) +
         matrix(DType::f32, rows, 1 + kMaxTopLogprobs) + matrix(DType::i32, rows, kMaxTopLogprobs);
}

void RankSampler::start(const Stream& stream, const Tensor& logits, const SamplePlan& plan) {
  const int64_t rows = plan.num_rows();
  CHORALE_CHECK(logits.rows() == rows && rows <= limits_.max_rows, "{} rows are to be sampled of {}, room {}",
                rows, logits.rows(), limits_.max_rows);
  sampled_ = {};
  done_ = {};
  if (rows == 0) return;
  count_texts(stream, plan);
  const int64_t most = plan.most_alternatives();
  SampledRows sampled{.tokens = tokens_.first_columns(rows),
                      .statuses = statuses_.first_columns(rows),
                      .logprobs = {},
                      .top_tokens = {}};
  if (most >= 0) {
    sampled.logprobs = logprobs_.first_rows(rows).first_columns(1 + most);
    sampled.top_tokens = top_tokens_.first_rows(rows).first_columns(most);
  }
  chorale::sample(stream, upload(stream, logits, plan), scratch_, sampled);
  download(stream, sampled);
  done_ = stream.record();
}

SampledStep RankSampler::collect(const Stream& stream) {
  stream.wait(done_);
  return sampled_;
}

void RankSampler::count_texts(const Stream& stream, const SamplePlan& plan) {
  std::span<const int32_t> tokens = plan.text_tokens;
  for (const CountedText& text : plan.texts) {
    const Tensor counts = counts_.middle_rows(text.slot, 1);
    clear_counts(stream, counts);
    for (const bool in_prompt : {true, false}) {
      const auto count = static_cast<size_t>(in_prompt ? text.num_prompt : text.num_output);
      count_tokens(stream, tokens.first(count), in_prompt, counts);
      tokens = tokens.subspan(count);
    }
  }
}

void RankSampler::count_tokens(const Stream& stream, std::span<const int32_t> tokens, bool in_prompt,
                               const Tensor& counts) {
  while (!tokens.empty()) {
    const size_t count = std::min<size_t>(tokens.size(), kTokensAtOnce);
    chorale::count_tokens(stream, chorale::upload(stream, tokens.first(count), text_tokens_), in_prompt,
                          counts);
    tokens = tokens.subspan(count);
  }
}

SampleRows RankSampler::upload(const Stream& stream, const Tensor& logits, const SamplePlan& plan) {
  const int64_t rows = plan.num_rows();
  SampleRows in{
      .logits = logits, .params = params_.first_rows(rows), .bias = {}, .counts = counts_, .allowed = {}};
  const auto bytes = std::as_bytes(std::span(plan.params));
  chorale::upload(stream, bytes, params_.reshaped(1, params_.size()));
  if (!plan.biases.empty()) {
    in.bias = {.offsets = chorale::upload(stream, std::span(plan.bias_offsets), bias_offsets_),
               .tokens = chorale::upload(stream, std::span(plan.bias_tokens), bias_tokens_),
               .values = chorale::upload(stream, std::span(plan.biases), biases_)};
  }
  if (plan.masks.empty()) return in;
  in.allowed = allowed_.first_rows(rows);
  const auto words = static_cast<size_t>(allowed_.columns());
  size_t next = 0;
  for (int64_t row = 0; row < rows; ++row) {
    if (plan.params[static_cast<size_t>(row)].is_masked == 0) continue;
    const std::span<const uint32_t> mask = plan.masks.at(next++);
    CHORALE_CHECK(mask.size() >= words, "a mask of {} words for {} tokens", mask.size(), limits_.vocab_size);
    const std::span words_of_row(reinterpret_cast<const int32_t*>(mask.data()), words);
    chorale::upload(stream, words_of_row, allowed_.middle_rows(row, 1));
  }
  return in;
}

void RankSampler::download(const Stream& stream, const SampledRows& sampled) {
  const auto to_host = [&stream]<typename T>(const Tensor& source, const Tensor& memory,
                                             std::span<const T>& view) {
    if (source.empty()) return;
    const Tensor target = memory.first_columns(source.size()).reshaped(source.rows(), source.columns());
    copy(stream, source, target);
    view = {target.data<T>(), static_cast<size_t>(source.size())};
  };
  to_host(sampled.tokens, host_tokens_, sampled_.tokens);
  to_host(sampled.statuses, host_statuses_, sampled_.statuses);
  to_host(sampled.logprobs, host_logprobs_, sampled_.logprobs);
  to_host(sampled.top_tokens, host_top_tokens_, sampled_.top_tokens);
  sampled_.most = sampled.top_tokens.columns();
}

}  // namespace chorale::engine
