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
  inner.accept({"include_obfuscation"});
  inner.refuse("continuous_usage_stats", "usage comes once, at the end", {false});
  inner.finish();
  return out;
}

void accept_harmless_fields(Fields& fields) {
  fields.accept({"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
                 "prompt_cache_retention", "parallel_tool_calls"});
}

void refuse_unsupported_fields(Fields& fields) {
  fields.refuse("structural_tag", "use a grammar");
  fields.refuse("use_beam_search", "there is no beam search", {false});
  fields.refuse("length_penalty", "there is no beam search", {1, 1.0, 0});
  fields.refuse("truncate_prompt_tokens", "prompts are never cut");
  fields.refuse("prompt_logprobs", "use /v1/completions with echo, or /generate with logprob_start_len");
  fields.refuse("priority", "requests are served in their order", {0});
  fields.refuse("lora_path", "there are no adapters");
}

}  // namespace chorale::server
