#include "engine/admission.h"

#include <algorithm>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"
#include "base/math.h"
#include "base/sha256.h"
#include "engine/block_manager.h"
#include "io/vocabulary_limit.h"
#include "kernels/sample.h"

namespace chorale::engine {
namespace {

// Not to be met by another salt, whoever chooses it.
Hash128 cache_root(const std::string& salt) {
  if (salt.empty()) return {};
  const std::string digest = sha256_hex(salt);
  const auto word = [&](size_t at) { return std::stoull(digest.substr(at, 16), nullptr, 16); };
  return {word(0), word(16)};
}

}  // namespace

static_assert(io::kMaxVocabSize == kMaxVocabulary, "what is read can be sampled");

EngineOptions checked_options(EngineOptions options, const ModelRunner& runner) {
  auto positive = [](int64_t value, const char* name) {
    if (value < 1) throw_error("{} must be at least 1, but is {}", name, value);
  };
  positive(options.max_total_tokens, "max_total_tokens");
  positive(options.chunked_prefill_size, "chunked_prefill_size");
  positive(options.max_running_requests, "max_running_requests");
  positive(options.max_queued_requests, "max_queued_requests");
  if (options.max_context_len < 2) {
    throw_error("max_context_len must be at least 2 (a prompt token and an output token), but is {}",
                options.max_context_len);
  }
  positive(options.eplb.interval, "eplb.interval");
  if (!(options.eplb.min_balancedness >= 0 && options.eplb.min_balancedness <= 1)) {
    throw_error("eplb.min_balancedness must be from 0 to 1, but is {}", options.eplb.min_balancedness);
  }
  if (options.eplb.enabled && runner.movable_experts() == nullptr) {
    throw_error("eplb.enabled needs experts that can move: ranks that own different ones");
  }
  options.block_tokens = runner.block_tokens();
  options.spare_blocks = runner.num_spare_blocks();
  options.overlap_schedule &= runner.runs_ahead();
  if (options.max_total_tokens % options.block_tokens != 0) {
    throw_error("max_total_tokens must be a multiple of the KV block size {}, but is {}",
                options.block_tokens, options.max_total_tokens);
  }
  const int64_t running_per_group = ceil_div(options.max_running_requests, runner.num_dp_groups());
  if (options.max_logits_rows == 0) options.max_logits_rows = running_per_group;
  if (options.max_logits_rows < running_per_group) {
    throw_error("max_logits_rows must be at least the max_running_requests of a group ({}), but is {}",
                running_per_group, options.max_logits_rows);
  }
  const int64_t vocab_size = runner.vocab_size();
  CHORALE_CHECK(vocab_size >= 1 && vocab_size <= kMaxVocabulary, "a vocabulary of {} tokens", vocab_size);
  if (options.eos_token_ids.size() > kMaxEosTokenIds) {
    throw_error("there may be {} end-of-sequence tokens, but there are {}", kMaxEosTokenIds,
                options.eos_token_ids.size());
  }
  return options;
}

std::optional<RequestError> check_length(const EngineOptions& options, const Sequence& sequence) {
  if (sequence.num_prompt >= options.max_context_len) {
    return RequestError{
        .kind = RequestError::Kind::too_long,
        .message = fmt::format("this model's maximum context length is {} tokens, of which at least one must "
                               "be left for the output, but the prompt has {} tokens",
                               options.max_context_len, sequence.num_prompt),
        .param = "prompt"};
  }
  if (sequence.num_prompt > options.max_total_tokens) {
    return RequestError{
        .kind = RequestError::Kind::too_long,
        .message = fmt::format("this model's maximum context length is {} tokens here, which is what the KV "
                               "cache has room for, but the prompt has {} tokens",
                               options.max_total_tokens, sequence.num_prompt),
        .param = "prompt"};
  }
  return std::nullopt;
}

int64_t output_limit(const EngineOptions& options, const Sequence& sequence) {
  return std::min({sequence.request.sampling.max_new_tokens, options.max_context_len - sequence.num_prompt,
                   options.max_total_tokens - sequence.num_prompt + 1});
}

std::optional<RequestError> make_sequence(Submission submission, const EngineOptions& options,
                                          int64_t vocab_size, std::unique_ptr<Sequence>& sequence) {
  if (auto error = submission.request.validate(vocab_size)) return error;
  auto made = std::make_unique<Sequence>(std::move(submission.request), std::move(submission.listener));
  if (auto error = check_length(options, *made)) return error;
  made->cache_root = cache_root(made->request.cache_salt);
  made->max_output = output_limit(options, *made);
  if (const ConstraintFactory& constraint = made->request.constraint)
    made->mask = std::make_shared<MaskTask>(constraint(), vocab_size);
  sequence = std::move(made);
  return std::nullopt;
}

std::optional<RequestError> check_queue(const EngineOptions& options, int64_t waiting, int64_t asked) {
  const int64_t most = options.max_queued_requests;
  if (asked > most) {
    return RequestError{
        .kind = RequestError::Kind::invalid,
        .message = fmt::format("{} sequences are asked for at once, and at most {} may wait", asked, most),
        .param = "n"};
  }
  if (waiting + asked > most) {
    return RequestError{.kind = RequestError::Kind::overloaded,
                        .message = fmt::format(
                            "the queue is full: {} requests are waiting and at most {} may", waiting, most)};
  }
  return std::nullopt;
}

}  // namespace chorale::engine
