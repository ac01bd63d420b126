#include "server/endpoints/switch_strategy.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "base/error.h"
#include "engine/strategy_switch.h"
#include "server/wire/bad_request.h"
#include "server/wire/error_answer.h"
#include "server/wire/fields.h"
#include "server/wire/json_body.h"

namespace chorale::server {
namespace {

HttpResponse answer(const engine::StrategyChange& change) {
  const engine::SwitchResult& result = change.result;
  if (result.error) {
    return error_response({.status = 400, .message = *result.error, .param = "strategy"});
  }
  return {.body = to_text({{"status", "ok"},
                           {"strategy", change.strategy},
                           {"prepare_seconds", change.prepare_seconds},
                           {"pause_seconds", result.pause_seconds},
                           {"moved_kv_bytes", result.moved_bytes},
                           {"moved_requests", result.moved_sequences},
                           {"recomputed_requests", result.recomputed_sequences}})};
}

}  // namespace

void switch_strategy(ServerState& state, const HttpRequest& request,
                     const std::shared_ptr<Exchange>& exchange) {
  const Json body = parse_json_body(request);
  Fields fields(body, "");
  const std::optional<std::string> strategy = fields.string("strategy");
  fields.finish();
  if (!strategy) bad_request("strategy", "'strategy' is missing");
  engine::StrategySwitch* const strategy_switch = state.context.model.strategy_switch;
  if (strategy_switch == nullptr) bad_request("strategy", "the strategy of this server cannot be changed");
  const auto respond = [exchange](const engine::StrategyChange& change) {
    HttpResponse response = answer(change);
    exchange->post([exchange, response = std::move(response)] { exchange->respond(response); });
  };
  bool is_begun = false;
  try {
    is_begun = strategy_switch->start(*strategy, respond);
  } catch (const Error& error) {
    bad_request("strategy", "{}", error.what());
  }
  if (!is_begun) {
    throw BadRequest(ErrorAnswer{.status = 409, .message = "another change of the strategy is under way"});
  }
}

}  // namespace chorale::server
