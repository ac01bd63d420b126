#include "server/endpoints/info.h"

#include <optional>
#include <string>

#include "base/error.h"
#include "base/log.h"
#include "io/model_folder.h"
#include "io/tokenizer_config.h"
#include "server/wire/json_body.h"

namespace chorale::server {

namespace {

// Where clients that tokenize find the tokenizer: on the Hugging Face Hub, if the model came from there. They
// have no use for a folder of this machine.
Json tokenizer_path(const ServerModel& model) {
  const std::string name = io::hub_name(model.model_path);
  return name.empty() ? Json(nullptr) : Json(name);
}

Json or_null(const std::optional<std::string>& text) {
  return text ? Json(*text) : Json(nullptr);
}

}  // namespace

HttpResponse model_info(ServerState& state, const HttpRequest& /*request*/) {
  const RequestContext& context = state.context;
  const ServerModel& model = context.model;
  const Json answer = {{"model_path", context.model_name},
                       {"served_model_name", context.model_name},
                       {"tokenizer_path", tokenizer_path(model)},
                       {"is_generation", true},
                       {"has_chat_template", model.chat != nullptr && !model.chat->error()},
                       {"max_context_len", model.max_context_len},
                       {"vocab_size", context.vocab_size},
                       {"num_experts", model.num_experts},
                       {"dtype", model.dtype},
                       {"quantization", model.quantization}};
  return {.body = to_text(answer)};
}

Json read_tokenizer_info(const ServerModel& model) {
  io::TokenizerConfig config;
  try {
    config = io::load_tokenizer_config(model.model_path);
  } catch (const Error& error) {
    log::warn("/tokenizer_info does without tokenizer_config.json: {}", error.what());
  }
  if (model.chat != nullptr && !model.chat->given_text().empty())
    config.chat_template = model.chat->given_text();
  return {{"tokenizer_class", config.tokenizer_class.value_or("PreTrainedTokenizerFast")},
          {"bos_token", or_null(config.bos_token)},
          {"eos_token", or_null(config.eos_token)},
          {"pad_token", or_null(config.pad_token)},
          {"unk_token", or_null(config.unk_token)},
          {"chat_template", or_null(config.chat_template)}};
}

HttpResponse tokenizer_info(ServerState& state, const HttpRequest& /*request*/) {
  Json answer = state.tokenizer_info;
  answer["model_max_length"] = state.context.model.max_context_len;
  return {.body = to_text(answer)};
}

HttpResponse load_info(ServerState& state, const HttpRequest& /*request*/) {
  const engine::EngineStats stats = state.context.model.engine.stats();
  const Json load = {{"dp_rank", 0},
                     {"num_reqs", stats.running + stats.waiting},
                     {"num_waiting_reqs", stats.waiting},
                     {"num_tokens", stats.kv_tokens_used}};
  return {.body = to_text(Json::array({load}))};
}

HttpResponse version(ServerState& state, const HttpRequest& /*request*/) {
  return {.body = to_text({{"version", state.context.model.version}})};
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
                       {"strategy", model.current_strategy()},
                       {"num_experts", model.num_experts},
                       {"max_context_len", model.max_context_len},
                       {"max_total_num_tokens", stats.kv_tokens_total},
                       {"chunked_prefill_size", engine.chunked_prefill_size},
                       {"max_running_requests", engine.max_running_requests},
                       {"max_queued_requests", engine.max_queued_requests},
                       {"schedule_policy", engine::name_of(engine.schedule_policy)},
                       {"disable_radix_cache", !engine.enable_prefix_cache},
                       {"num_running_reqs", stats.running},
                       {"num_queue_reqs", stats.waiting},
                       {"num_used_tokens", stats.kv_tokens_used},
                       {"num_cached_tokens", stats.kv_tokens_cached},
                       {"status", stats.failed ? "failed" : "ready"}};
  return {.body = to_text(answer)};
}

}  // namespace chorale::server
