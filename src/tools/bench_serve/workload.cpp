#include "tools/bench_serve/workload.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/error.h"
#include "io/file_access.h"
#include "tools/bench_serve/sharegpt.h"

namespace chorale::bench_serve {
namespace {

constexpr uint64_t kMaxFileBytes = uint64_t{1} << 32;
constexpr int64_t kWarmupTokens = 32;  // an answer's, at most

Workload random_workload(const WorkloadOptions& options, const text::Tokenizer* tokenizer,
                         const std::function<int64_t()>& vocab_size) {
  const RandomShape shape{.requests = options.num_prompts + options.warmup_requests,
                          .prompt_tokens = options.random_input_tokens,
                          .output_tokens = options.random_output_tokens,
                          .range_ratio = options.random_range_ratio};
  Workload workload;
  workload.requests = tokenizer != nullptr ? random_text_requests(shape, *tokenizer, options.seed)
                                           : random_id_requests(shape, vocab_size(), options.seed);
  const auto lengths = [&](int64_t tokens) {
    const int64_t least = shape.least(tokens);
    return least < tokens ? fmt::format("{} to {}", least, tokens) : fmt::format("{}", tokens);
  };
  workload.description = fmt::format(
      "{} prompts of {} {}, {} output tokens each", options.num_prompts, lengths(shape.prompt_tokens),
      tokenizer != nullptr ? "tokens of random words" : "random token ids", lengths(shape.output_tokens));
  return workload;
}

Workload sharegpt_workload(const WorkloadOptions& options, const text::Tokenizer* tokenizer) {
  const std::string source = "--dataset-path " + options.sharegpt_file.string();
  const std::vector<Exchange> exchanges =
      parse_sharegpt(io::read_text_file(options.sharegpt_file, kMaxFileBytes), source);
  Workload workload;
  workload.requests = sample_sharegpt(exchanges,
                                      {.requests = options.num_prompts + options.warmup_requests,
                                       .output_tokens = options.sharegpt_output_tokens,
                                       .context_tokens = options.sharegpt_context_tokens},
                                      tokenizer, options.seed);
  const auto found = std::ssize(workload.requests);
  if (found == 0) throw_error("{}: no conversation is left: all are too short or too long", source);
  if (found < options.num_prompts) {
    workload.notes.push_back(
        fmt::format("{} prompts were asked for, the dataset has {} that fit.", options.num_prompts, found));
  }
  workload.description = fmt::format("{} prompts of {}", std::min(found, options.num_prompts),
                                     options.sharegpt_file.filename().string());
  return workload;
}

void split_off_warmup(Workload& workload, const WorkloadOptions& options) {
  const auto all = std::ssize(workload.requests);
  const auto measured = std::min(all, options.num_prompts);
  workload.warmup_is_apart = all - measured >= options.warmup_requests;
  const auto first = workload.requests.begin() + (workload.warmup_is_apart ? measured : 0);
  workload.warmup.assign(first, first + std::min(all, options.warmup_requests));
  workload.requests.resize(static_cast<size_t>(measured));
  for (Request& request : workload.warmup)
    request.output_tokens = std::min(request.output_tokens, kWarmupTokens);
}

}  // namespace

Workload make_workload(const WorkloadOptions& options, const text::Tokenizer* tokenizer,
                       const std::function<int64_t()>& vocab_size) {
  Workload workload = options.sharegpt_file.empty() ? random_workload(options, tokenizer, vocab_size)
                                                    : sharegpt_workload(options, tokenizer);
  split_off_warmup(workload, options);
  return workload;
}

}  // namespace chorale::bench_serve
