#include "server/endpoints/info.h"

#include "server/wire/json_body.h"

namespace chorale::server {

HttpResponse model_info(ServerState& state, const HttpRequest& /*request*/) {
  const RequestContext& context = state.context;
  const ServerModel& model = context.model;
  const Json answer = {{"model_path", context.model_name},
                       {"served_model_name", context.model_name},
                       {"tokenizer_path", context.model_name},
                       {"is_generation", true},
                       {"has_chat_template", model.chat != nullptr && !model.chat->error()},
                       {"max_context_len", model.max_context_len},
                       {"vocab_size", context.vocab_size},
                       {"num_experts", model.num_experts},
                       {"dtype", model.dtype},
                       {"quantization", model.quantization}};
  return {.body = to_text(answer)};
}

HttpResponse server_info(ServerState& state, const HttpRequest& /*request*/) {
  const RequestContext& context = state.context;
  const ServerModel& model = context.model;
  const engine::EngineOptions& engine = model.engine.options();
  const engine::EngineStats stats = model.engine.stats();
  const Json answer = {{"version", model.version},
                       {"served_model_name", context.model_name},
                       {"model_path", context.model_name},
                       {"dtype", model.dtype},
                       {"quantization", model.quantization},
                       {"device", model.device},
                       {"device_name", model.device_description},
                       {"instruction_set", model.instruction_set},
                       {"strategy", model.strategy},
                       {"num_experts", model.num_experts},
                       {"max_context_len", model.max_context_len},
                       {"max_total_num_tokens", stats.kv_tokens_total},
                       {"chunked_prefill_size", engine.chunked_prefill_size},
                       {"max_running_requests", engine.max_running_requests},
                       {"max_queued_requests", engine.max_queued_requests},
                       {"disable_radix_cache", !engine.enable_prefix_cache},
                       {"num_running_reqs", stats.running},
                       {"num_queue_reqs", stats.waiting},
                       {"num_used_tokens", stats.kv_tokens_used},
                       {"num_cached_tokens", stats.kv_tokens_cached},
                       {"status", stats.failed ? "failed" : "ready"}};
  return {.body = to_text(answer)};
}

}  // namespace chorale::server
