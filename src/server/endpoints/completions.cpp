#include "server/endpoints/completions.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "server/generation/prompts.h"
#include "server/generation/structured_output.h"
#include "server/wire/bad_request.h"
#include "server/wire/openai_fields.h"

namespace chorale::server {
namespace {

constexpr int64_t kDefaultMaxTokens = 16;  // as OpenAI's API

// Where each prompt token's text starts, in characters, and where the last one's ends.
struct PromptOffsets {
  std::vector<int64_t> starts;
  int64_t end = 0;
};

PromptOffsets prompt_offsets(const text::Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  PromptOffsets offsets;
  text::IncrementalDetokenizer detokenizer(tokenizer, false);
  for (const int32_t id : ids) {
    offsets.starts.push_back(offsets.end);
    offsets.end += count_characters(detokenizer.push(id));
  }
  offsets.end += count_characters(detokenizer.finish());
  return offsets;
}

// The four parallel lists of the completions schema.
class LogprobLists {
 public:
  LogprobLists(const text::Tokenizer& tokenizer, bool with_top)
      : tokenizer_(tokenizer), with_top_(with_top) {}

  // nullptr: a token without a predecessor, which has no probability. The logprobs must outlive what take()
  // gives.
  void add(int32_t id, const engine::TokenLogprobs* logprobs, int64_t offset) {
    rows_->push_back({id, logprobs, offset});
  }

  Json take(LongLists* lists) {
    const auto column = [&](auto value) {
      const auto element = [&tokenizer = tokenizer_, rows = rows_, value](size_t i) {
        return Json(value(tokenizer, (*rows)[i]));
      };
      return list_of(rows_->size(), element, lists);
    };
    return {{"tokens",
             column([](const auto& tokenizer, const Row& row) { return token_text(tokenizer, row.id); })},
            {"token_logprobs", column([](const auto&, const Row& row) {
               return row.logprobs == nullptr ? Json(nullptr) : Json(finite_logprob(row.logprobs->logprob));
             })},
            {"top_logprobs", with_top_ ? column(top) : Json(nullptr)},
            {"text_offset", column([](const auto&, const Row& row) { return row.offset; })}};
  }

 private:
  struct Row {
    int32_t id;
    const engine::TokenLogprobs* logprobs;
    int64_t offset;
  };

  static Json top(const text::Tokenizer& tokenizer, const Row& row) {
    if (row.logprobs == nullptr) return nullptr;
    Json top = Json::object();
    // Different tokens may read the same where they are parts of characters: the likeliest stays.
    for (const auto& [other, logprob] : row.logprobs->top) {
      const std::string name = token_text(tokenizer, other);
      if (!top.contains(name)) top[name] = finite_logprob(logprob);
    }
    const std::string text = token_text(tokenizer, row.id);
    if (!top.contains(text)) top[text] = finite_logprob(row.logprobs->logprob);
    return top;
  }

  const text::Tokenizer& tokenizer_;
  bool with_top_;
  std::shared_ptr<std::vector<Row>> rows_ = std::make_shared<std::vector<Row>>();
};

struct CompletionOptions {
  std::string cache_salt;
  bool echo = false;
  std::optional<int64_t> logprobs;  // number of alternatives
  bool include_usage = false;
  bool continuous_usage = false;  // in each message of a stream
  bool token_ids = false;         // tell them, of the prompt and of the answer
};

class CompletionFormat : public AnswerFormat {
 public:
  CompletionFormat(AnswerHead head, const text::Tokenizer& tokenizer, CompletionOptions options)
      : head_(std::move(head)), tokenizer_(tokenizer), options_(options) {}

  Json whole(const std::vector<ChoiceState>& choices, LongLists& lists) const override {
    Json list = Json::array();
    for (const ChoiceState& choice : choices) {
      LogprobLists logprobs(tokenizer_, options_.logprobs.value_or(0) > 0);
      add_prompt(choice, logprobs);
      add_output(choice.token_ids, choice.logprobs, choice.text_offsets, choice.plan.prompt_characters,
                 logprobs);
      const std::string prompt = options_.echo ? choice.plan.prompt_text : "";
      list.push_back({{"index", choice.index},
                      {"text", prompt + choice.text},
                      {"logprobs", options_.logprobs ? logprobs.take(&lists) : Json(nullptr)},
                      {"finish_reason", finish_name(choice.finish)}});
      if (options_.token_ids) {
        list.back()["prompt_token_ids"] = choice.plan.request.prompt_ids;
        list.back()["token_ids"] = choice.token_ids;
      }
    }
    Json answer = answer_json(head_, "text_completion", std::move(list));
    answer["usage"] = usage_json(choices);
    return answer;
  }

  void piece(const ChoiceState& choice, const TextPiece& piece, const Sink& sink) override {
    LogprobLists logprobs(tokenizer_, options_.logprobs.value_or(0) > 0);
    std::string text;
    const bool echo_now = options_.echo && !choice.told_any;
    if (echo_now) {
      text = choice.plan.prompt_text;
      add_prompt(choice, logprobs);
    }
    text += piece.text;
    add_output(piece.token_ids, piece.logprobs, piece.text_offsets, choice.plan.prompt_characters, logprobs);
    const bool has_logprobs = options_.logprobs && (echo_now || !piece.logprobs.empty());
    const bool has_ids = options_.token_ids && (!choice.told_any || !piece.token_ids.empty());
    if (!text.empty() || has_logprobs || has_ids) {
      Json out = chunk(choice, text, has_logprobs ? logprobs.take(nullptr) : Json(nullptr), nullptr);
      if (has_ids) add_ids(choice, piece, out["choices"].front());
      sink(out);
    }
    if (piece.finish != engine::FinishReason::none) {
      sink(chunk(choice, "", nullptr, finish_name(piece.finish)));
    }
  }

  void close(const std::vector<ChoiceState>& choices, const Sink& sink) const override {
    if (!options_.include_usage) return;
    Json last = answer_json(head_, "text_completion", Json::array());
    last["usage"] = usage_json(choices);
    sink(last);
  }

 private:
  // The prompt's part of the lists, where it is repeated.
  void add_prompt(const ChoiceState& choice, LogprobLists& logprobs) const {
    if (!options_.echo || !options_.logprobs) return;
    const std::vector<int32_t>& ids = choice.plan.request.prompt_ids;
    const PromptOffsets offsets = prompt_offsets(tokenizer_, ids);
    for (size_t i = 0; i < ids.size(); ++i) {
      const bool known = i > 0 && i - 1 < choice.prompt_logprobs.size();
      logprobs.add(ids[i], known ? &choice.prompt_logprobs[i - 1] : nullptr, offsets.starts[i]);
    }
  }

  static void add_output(const std::vector<int32_t>& ids, const std::vector<engine::TokenLogprobs>& values,
                         const std::vector<int64_t>& offsets, int64_t base, LogprobLists& logprobs) {
    for (size_t i = 0; i < values.size(); ++i) logprobs.add(ids[i], &values[i], base + offsets[i]);
  }

  // The prompt's once, with the choice's first message.
  static void add_ids(const ChoiceState& choice, const TextPiece& piece, Json& out) {
    if (!choice.told_any) out["prompt_token_ids"] = choice.plan.request.prompt_ids;
    out["token_ids"] = piece.token_ids;
  }

  Json chunk(const ChoiceState& choice, const std::string& text, Json logprobs, Json finish_reason) const {
    Json choices = Json::array();
    choices.push_back({{"index", choice.index},
                       {"text", text},
                       {"logprobs", std::move(logprobs)},
                       {"finish_reason", std::move(finish_reason)}});
    Json out = answer_json(head_, "text_completion", std::move(choices));
    if (options_.include_usage) {
      out["usage"] = options_.continuous_usage ? usage_json({&choice, 1}) : Json(nullptr);
    }
    return out;
  }

  AnswerHead head_;
  const text::Tokenizer& tokenizer_;
  CompletionOptions options_;
};

CompletionOptions read_options(Fields& fields, const RequestContext& context) {
  CompletionOptions options;
  options.echo = fields.boolean("echo").value_or(false);
  options.logprobs = fields.integer("logprobs", 0, context.limits.max_top_logprobs);
  options.token_ids = fields.boolean("return_token_ids").value_or(false);
  return options;
}

// best_of asks for more candidates than are returned; equal to n it asks for nothing.
void check_best_of(Fields& fields, int64_t n) {
  const auto best_of = fields.integer("best_of", 1, INT64_MAX);
  if (best_of && *best_of != n)
    bad_request("best_of", "'best_of' is not supported: it may only be equal to 'n'");
}

// All but what tells the choices of one prompt apart.
PlannedChoice plan_choice(const Prompt& prompt, const SamplingRequest& sampling,
                          const CompletionOptions& options, const RequestContext& context) {
  const text::Tokenizer& tokenizer = context.model.tokenizer;
  const int64_t max_tokens =
      plan_length(std::ssize(prompt.ids), prompt.param, sampling, kDefaultMaxTokens, context);
  PlannedChoice choice;
  choice.request.prompt_ids = prompt.ids;
  choice.request.cache_salt = options.cache_salt;
  choice.request.sampling = sampling.params;
  choice.request.sampling.max_new_tokens = std::max<int64_t>(max_tokens, 1);
  choice.request.num_top_logprobs = options.logprobs ? static_cast<int32_t>(*options.logprobs) : -1;
  choice.text = sampling.text;
  choice.rules = plan_rules(sampling, prompt.ids);
  choice.discard_output = max_tokens == 0;
  if (!options.echo) return choice;
  choice.prompt_text = prompt.is_text ? std::string(prompt.text) : tokenizer.decode(prompt.ids, false);
  if (options.logprobs) {
    choice.request.prompt_logprobs_start = 0;
    choice.prompt_characters = prompt_offsets(tokenizer, prompt.ids).end;
  }
  return choice;
}

}  // namespace

AnswerPlan plan_completions(const Json& body, AnswerHead head, const RequestContext& context) {
  Fields fields(body, "");
  check_model(fields, context);
  const SamplingRequest sampling = read_sampling(fields, kOpenAiSampling, context);
  const StreamRequest stream = read_stream(fields);
  CompletionOptions options = read_options(fields, context);
  options.include_usage = stream.include_usage;
  options.continuous_usage = stream.continuous_usage;
  options.cache_salt = read_cache_salt(fields, context);
  const int64_t n = fields.integer("n", 1, context.limits.max_sequences).value_or(1);
  check_best_of(fields, n);
  const Json* prompt_value = fields.get("prompt");
  if (prompt_value == nullptr) bad_request("prompt", "'prompt' is missing");
  const std::optional<RequestedFormat> format = read_output_format(fields);
  accept_harmless_fields(fields);
  refuse_unsupported_fields(fields);
  fields.refuse("suffix", "text cannot be inserted", {""});
  fields.refuse("add_special_tokens", "the tokenizer decides about them", {true});
  fields.finish();

  const Prompts prompts = read_prompts(*prompt_value, "prompt", context);
  const int64_t sequences = std::ssize(prompts.list) * n;
  if (sequences > context.limits.max_sequences) {
    bad_request("n", "'n' times the number of prompts may be at most {}, not {}",
                context.limits.max_sequences, sequences);
  }

  std::shared_ptr<const OutputFormat> output_format;
  if (format) output_format = std::make_shared<const OutputFormat>(OutputFormat{*format});

  AnswerPlan plan;
  plan.stream = stream.stream;
  for (size_t p = 0; p < prompts.list.size(); ++p) {
    PlannedChoice choice = plan_choice(prompts.list[p], sampling, options, context);
    choice.prompt_index = static_cast<int64_t>(p);
    choice.output_format = output_format;
    for (int64_t i = 0; i < n; ++i) {
      choice.request.id = fmt::format("{}-{}", head.id, plan.choices.size());
      choice.request.sampling.choice_index = static_cast<uint32_t>(i);
      choice.public_id = head.id;
      plan.choices.push_back(choice);
    }
  }
  plan.format = std::make_unique<CompletionFormat>(std::move(head), context.model.tokenizer, options);
  return plan;
}

}  // namespace chorale::server
