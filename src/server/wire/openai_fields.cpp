#include "server/wire/openai_fields.h"

#include "server/wire/bad_request.h"

namespace chorale::server {

StreamRequest read_stream(Fields& fields) {
  StreamRequest out;
  out.stream = fields.boolean("stream").value_or(false);
  const Json* options = fields.get("stream_options");
  if (options == nullptr) return out;
  if (!out.stream) bad_request("stream_options", "'stream_options' is only allowed with 'stream': true");
  Fields inner(*options, "stream_options");
  out.include_usage = inner.boolean("include_usage").value_or(false);
  out.continuous_usage = inner.boolean("continuous_usage_stats").value_or(false) && out.include_usage;
  inner.accept({"include_obfuscation"});
  inner.finish();
  return out;
}

void accept_harmless_fields(Fields& fields) {
  fields.accept({"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
                 "prompt_cache_retention", "parallel_tool_calls", "verbosity", "prediction",
                 "reasoning_effort", "cache_prompt", "request_id", "session_id", "guided_decoding_backend",
                 "min_keep", "repeat_last_n", "truncation_side"});
}

void refuse_unsupported_fields(Fields& fields) {
  fields.refuse("structural_tag", "use a grammar");
  fields.refuse("use_beam_search", "there is no beam search", {false});
  fields.refuse("length_penalty", "there is no beam search", {1, 1.0, 0});
  fields.refuse("truncate_prompt_tokens", "prompts are never cut");
  fields.refuse("prompt_logprobs", "use /v1/completions with echo, or /generate with logprob_start_len");
  fields.refuse("priority", "requests are served in their order", {0});
  fields.refuse("lora_path", "there are no adapters");
  fields.refuse("prompt_embeds", "this model reads text only");
  fields.refuse("logits_processors", "there are no custom logit processors", {Json::array()});
  fields.refuse("logprob_token_ids", "use top_logprobs");
  fields.refuse("return_tokens_as_token_ids", "use return_token_ids", {false});
  fields.refuse("n_probs", "use logprobs", {0});
  refuse_foreign_sampling(fields);
}

void refuse_foreign_sampling(Fields& fields) {
  constexpr const char* kNone = "there is no such sampling";
  fields.refuse("n_predict", "use max_tokens", {-1});
  fields.refuse("repeat_penalty", "use repetition_penalty", {1});
  fields.refuse("banned_tokens", "use bad_words", {Json::array()});
  fields.refuse("banned_strings", "use bad_words", {Json::array()});
  for (const char* name : {"typical_p", "typical", "tfs", "tfs_z", "guidance_scale"}) {
    fields.refuse(name, kNone, {1});
  }
  for (const char* name :
       {"mirostat", "mirostat_mode", "dynatemp_range", "dry_multiplier", "xtc_probability", "top_a",
        "epsilon_cutoff", "eta_cutoff", "no_repeat_ngram_size", "smoothing_factor"}) {
    fields.refuse(name, kNone, {0});
  }
  fields.refuse("top_n_sigma", kNone, {-1, 0});
  fields.refuse("watermarking", kNone, {false});
  fields.refuse("repetition_detection", kNone);
}

}  // namespace chorale::server
