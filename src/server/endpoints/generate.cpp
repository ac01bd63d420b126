#include "server/endpoints/generate.h"

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

constexpr int64_t kDefaultMaxTokens = 128;
constexpr size_t kMaxIdBytes = 256;

struct NativeOptions {
  bool logprobs = false;
  int64_t top_logprobs = 0;
  int64_t logprob_start = -1;  // -1: none of the prompt
  bool text_in_logprobs = false;
  bool is_list = false;  // the answer is a list, and stream messages have an index
};

class NativeFormat : public AnswerFormat {
 public:
  NativeFormat(const text::Tokenizer& tokenizer, NativeOptions options, std::vector<std::string> ids)
      : tokenizer_(tokenizer), options_(options), ids_(std::move(ids)) {}

  bool cumulative() const override { return true; }

  Json whole(const std::vector<ChoiceState>& choices, LongLists& lists) const override {
    if (!options_.is_list) return message(choices.front(), &lists);
    Json list = Json::array();
    for (const ChoiceState& choice : choices) list.push_back(message(choice, &lists));
    return list;
  }

  void piece(const ChoiceState& choice, const TextPiece&, const Sink& sink) override {
    Json out = message(choice, nullptr);
    if (options_.is_list) out["index"] = choice.index;
    sink(out);
  }
  void close(const std::vector<ChoiceState>&, const Sink&) const override {}

 private:
  Json message(const ChoiceState& choice, LongLists* lists) const {
    Json meta = {
        {"id", ids_[static_cast<size_t>(choice.index)]}, {"finish_reason", finish_json(choice)},
        {"prompt_tokens", choice.num_prompt_tokens},     {"completion_tokens", choice.num_completion_tokens},
        {"cached_tokens", choice.num_cached_tokens},     {"e2e_latency", choice.seconds}};
    if (options_.logprobs) add_logprobs(choice, meta, lists);
    return {{"text", choice.text}, {"output_ids", choice.token_ids}, {"meta_info", std::move(meta)}};
  }

  Json finish_json(const ChoiceState& choice) const {
    switch (choice.finish) {
      case engine::FinishReason::aborted:
        return {{"type", "abort"}, {"message", "a client asked for the end of this request"}};
      case engine::FinishReason::none:
        return nullptr;
      case engine::FinishReason::length:
        return {{"type", "length"}, {"length", choice.num_completion_tokens}};
      default:
        break;
    }
    Json out = {{"type", "stop"}, {"matched", nullptr}};
    if (choice.matched_stop_token) out["matched"] = *choice.matched_stop_token;
    if (choice.matched_stop_string) out["matched"] = *choice.matched_stop_string;
    return out;
  }

  // [logprob or null, id, text or null]
  Json entry(Json logprob, int32_t id) const {
    Json out = Json::array();
    out.push_back(std::move(logprob));
    out.push_back(id);
    out.push_back(options_.text_in_logprobs ? Json(token_text(tokenizer_, id)) : Json(nullptr));
    return out;
  }

  Json top_entries(const engine::TokenLogprobs& logprobs) const {
    Json out = Json::array();
    for (const auto& [id, logprob] : logprobs.top) out.push_back(entry(finite_logprob(logprob), id));
    return out;
  }

  void add_logprobs(const ChoiceState& choice, Json& meta, LongLists* lists) const {
    const size_t num_output = choice.logprobs.size();
    meta["output_token_logprobs"] = list_of(
        num_output,
        [this, &choice](size_t i) {
          return entry(finite_logprob(choice.logprobs[i].logprob), choice.token_ids[i]);
        },
        lists);
    if (options_.top_logprobs > 0) {
      meta["output_top_logprobs"] = list_of(
          num_output, [this, &choice](size_t i) { return top_entries(choice.logprobs[i]); }, lists);
    }

    const size_t num_prompt = choice.plan.request.prompt_ids.size();
    const auto start = static_cast<size_t>(std::max<int64_t>(options_.logprob_start, 0));
    const size_t num_input = options_.logprob_start >= 0 && start < num_prompt ? num_prompt - start : 0;
    meta["input_token_logprobs"] = list_of(
        num_input,
        [this, &choice, start](size_t i) {
          const engine::TokenLogprobs* known = of_prompt(choice, start + i);
          return entry(known != nullptr ? Json(finite_logprob(known->logprob)) : Json(nullptr),
                       choice.plan.request.prompt_ids[start + i]);
        },
        lists);
    if (options_.top_logprobs > 0) {
      meta["input_top_logprobs"] = list_of(
          num_input,
          [this, &choice, start](size_t i) {
            const engine::TokenLogprobs* known = of_prompt(choice, start + i);
            return known != nullptr ? top_entries(*known) : Json(nullptr);
          },
          lists);
    }
  }

  // Of the prompt's token at `position`. The first has no logprob; the engine's list begins after it.
  const engine::TokenLogprobs* of_prompt(const ChoiceState& choice, size_t position) const {
    const auto first = static_cast<size_t>(std::max<int64_t>(options_.logprob_start, 1));
    const size_t at = position - first;  // far beyond the list where it is less
    return at < choice.prompt_logprobs.size() ? &choice.prompt_logprobs[at] : nullptr;
  }

  const text::Tokenizer& tokenizer_;
  NativeOptions options_;
  std::vector<std::string> ids_;
};

struct NativeSampling {
  SamplingRequest sampling;
  std::shared_ptr<const OutputFormat> output_format;
  int64_t n = 1;
};

NativeSampling read_params(const Json& value, const std::string& path, const RequestContext& context) {
  Fields fields(value, path);
  NativeSampling out;
  out.sampling = read_sampling(fields, kNativeSampling, context);
  out.n = fields.integer("n", 1, context.limits.max_sequences).value_or(1);
  const std::optional<RequestedFormat> format = read_output_format(fields);
  refuse_unsupported_fields(fields);
  fields.refuse("stop_regex", "use stop", {""});
  fields.refuse("custom_params", "there are no custom logit processors");
  fields.finish();
  if (format) out.output_format = std::make_shared<const OutputFormat>(OutputFormat{*format});
  return out;
}

// "sampling_params": absent, one object for all prompts, or a list with one for each.
std::vector<NativeSampling> read_all_params(Fields& fields, size_t num_prompts,
                                            const RequestContext& context) {
  const Json* value = fields.get("sampling_params");
  const Json none = Json::object();
  if (value == nullptr) value = &none;
  if (!value->is_array()) return {num_prompts, read_params(*value, "sampling_params", context)};
  if (value->size() != num_prompts) {
    bad_request("sampling_params", "'sampling_params' has {} objects for {} prompts", value->size(),
                num_prompts);
  }
  std::vector<NativeSampling> out;
  for (size_t i = 0; i < num_prompts; ++i) {
    out.push_back(read_params((*value)[i], fmt::format("sampling_params[{}]", i), context));
  }
  return out;
}

Prompts read_input(Fields& fields, const RequestContext& context) {
  const Json* text = fields.get("text");
  const Json* ids = fields.get("input_ids");
  if ((text == nullptr) == (ids == nullptr)) bad_request("text", "give either 'text' or 'input_ids'");
  const std::string param = text != nullptr ? "text" : "input_ids";
  Prompts prompts = read_prompts(text != nullptr ? *text : *ids, param, context);
  for (const Prompt& prompt : prompts.list) {
    if (prompt.is_text != (text != nullptr)) {
      bad_request(param, "'{}' must be made of {}", param, text != nullptr ? "strings" : "token ids");
    }
  }
  return prompts;
}

NativeOptions read_options(Fields& fields, const RequestContext& context) {
  NativeOptions options;
  options.logprobs = fields.boolean("return_logprob").value_or(false);
  options.top_logprobs = fields.integer("top_logprobs_num", 0, context.limits.max_top_logprobs).value_or(0);
  options.logprob_start = fields.integer("logprob_start_len", -1, INT64_MAX).value_or(-1);
  options.text_in_logprobs = fields.boolean("return_text_in_logprobs").value_or(false);
  if (options.logprobs) return options;
  if (options.top_logprobs > 0)
    bad_request("top_logprobs_num", "'top_logprobs_num' needs 'return_logprob': true");
  if (options.logprob_start >= 0)
    bad_request("logprob_start_len", "'logprob_start_len' needs 'return_logprob': true");
  return options;
}

void refuse_native_fields(Fields& fields) {
  for (const char* name : {"image_data", "video_data", "audio_data", "input_embeds"}) {
    fields.refuse(name, "this model reads text only");
  }
  fields.refuse("token_ids_logprob", "use top_logprobs_num");
  fields.refuse("return_hidden_states", "hidden states are not returned", {false});
  fields.refuse("custom_logit_processor", "there are no custom logit processors");
  fields.refuse("session_params", "there are no sessions");
  fields.refuse("lora_path", "there are no adapters");
  fields.refuse("priority", "requests are served in their order", {0});
}

// What the client is told as the ids of its choices: "rid", a string or one string for each prompt.
std::vector<std::string> read_ids(Fields& fields, size_t num_prompts) {
  const Json* rid = fields.get("rid");
  if (rid == nullptr) return {};
  std::vector<std::string> ids;
  if (rid->is_array()) {
    for (const Json& id : *rid) ids.push_back(to_string(id, "rid"));
  } else {
    ids.push_back(to_string(*rid, "rid"));
  }
  if (ids.size() != num_prompts)
    bad_request("rid", "'rid' has {} ids for {} prompts", ids.size(), num_prompts);
  for (const std::string& id : ids) {
    if (id.size() > kMaxIdBytes) bad_request("rid", "an id may have at most {} bytes", kMaxIdBytes);
  }
  return ids;
}

PlannedChoice plan_choice(const Prompt& prompt, const NativeSampling& params, const NativeOptions& options,
                          const RequestContext& context) {
  if (options.logprob_start > std::ssize(prompt.ids)) {
    bad_request("logprob_start_len", "'logprob_start_len' is {}, more than the {} tokens of the prompt",
                options.logprob_start, prompt.ids.size());
  }
  const int64_t max_tokens =
      plan_length(std::ssize(prompt.ids), prompt.param, params.sampling, kDefaultMaxTokens, context);
  PlannedChoice choice;
  choice.request.prompt_ids = prompt.ids;
  choice.request.sampling = params.sampling.params;
  choice.output_format = params.output_format;
  choice.request.sampling.max_new_tokens = std::max<int64_t>(max_tokens, 1);
  choice.request.num_top_logprobs = options.logprobs ? static_cast<int32_t>(options.top_logprobs) : -1;
  choice.request.prompt_logprobs_start = options.logprob_start;
  choice.text = params.sampling.text;
  choice.rules = plan_rules(params.sampling, prompt.ids);
  choice.discard_output = max_tokens == 0;
  return choice;
}

}  // namespace

AnswerPlan plan_generate(const Json& body, AnswerHead head, const RequestContext& context) {
  Fields fields(body, "");
  AnswerPlan plan;
  plan.stream = fields.boolean("stream").value_or(false);
  NativeOptions options = read_options(fields, context);
  const std::string cache_salt = read_cache_salt(fields, context);
  refuse_native_fields(fields);
  fields.accept({"log_metrics"});
  const Prompts prompts = read_input(fields, context);
  const std::vector<NativeSampling> params = read_all_params(fields, prompts.list.size(), context);
  const std::vector<std::string> given_ids = read_ids(fields, prompts.list.size());
  fields.finish();

  std::vector<std::string> ids;
  for (size_t p = 0; p < prompts.list.size(); ++p) {
    if (std::ssize(ids) + params[p].n > context.limits.max_sequences) {
      bad_request("sampling_params", "'n' times the number of prompts may be at most {}",
                  context.limits.max_sequences);
    }
    const PlannedChoice choice = plan_choice(prompts.list[p], params[p], options, context);
    for (int64_t i = 0; i < params[p].n; ++i) {
      plan.choices.push_back(choice);
      PlannedChoice& added = plan.choices.back();
      added.request.id = fmt::format("{}-{}", head.id, ids.size());
      added.request.sampling.choice_index = static_cast<uint32_t>(i);
      added.prompt_index = static_cast<int64_t>(p);
      added.request.cache_salt = cache_salt;
      added.public_id = given_ids.empty() ? added.request.id : given_ids[p];
      ids.push_back(added.public_id);
    }
  }
  options.is_list = prompts.is_batch || plan.choices.size() > 1;
  plan.format = std::make_unique<NativeFormat>(context.model.tokenizer, options, std::move(ids));
  return plan;
}

}  // namespace chorale::server
