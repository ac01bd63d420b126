// A small model with random weights on ranks of this process.
#pragma once

#include <string>
#include <string_view>

#include "engine/engine.h"
#include "engine/loaded_model.h"
#include "parallel/strategy.h"
#include "unit/engine/small_config.h"

namespace chorale::engine {

inline parallel::StrategyFlags flags_of(const parallel::Strategy& s) {
  parallel::StrategyFlags flags;
  flags.tp_size = s.tp_size;
  flags.dp_size = s.dp_size;
  flags.ep_size = s.ep_size;
  flags.moe_tp_size = s.moe_tp_size;
  flags.moe_dp_size = s.moe_dp_size;
  return flags;
}

inline LoadOptions small_model(std::string_view strategy, const std::string& device = "cpu") {
  LoadOptions o;
  o.config = small_config();
  o.load_format = "dummy";
  o.device = device;
  o.threads = 1;
  o.max_total_tokens = 4096;
  o.max_running_requests = 32;
  o.max_logits_rows = 128;
  o.chunked_prefill_size = 128;
  o.show_progress = false;
  o.parallel.communicator = "local";
  o.parallel.strategy = flags_of(parallel::parse_strategy(strategy));
  return o;
}

inline EngineOptions engine_options_of(const LoadedModel& model, const LoadOptions& load) {
  EngineOptions o;
  o.max_total_tokens = model.info().max_total_tokens;
  o.max_context_len = model.info().max_context_len;
  o.max_running_requests = load.max_running_requests;
  o.max_logits_rows = load.max_logits_rows;
  o.chunked_prefill_size = load.chunked_prefill_size;
  o.eos_token_ids = {7};
  return o;
}

}  // namespace chorale::engine
