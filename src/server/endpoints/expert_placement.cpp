#include "server/endpoints/expert_placement.h"

#include <memory>
#include <utility>
#include <vector>

#include "engine/expert_report.h"
#include "server/endpoints/placement_in_force.h"
#include "server/wire/bad_request.h"
#include "server/wire/error_answer.h"
#include "server/wire/json_body.h"

namespace chorale::server {
namespace {

void require_experts(const ServerState& state) {
  if (!state.expert_load->distribution.has_experts()) {
    throw BadRequest(ErrorAnswer{.status = 400, .message = "the model has no experts"});
  }
}

Json to_json(const engine::ExpertMoves& moves) {
  return {{"rebalances", moves.rebalances},
          {"layers", moves.layers},
          {"slots", moves.slots},
          {"bytes", moves.bytes},
          {"seconds", moves.seconds}};
}

Json to_json(const engine::RebalanceResult& result) {
  return {{"moved", to_json(result.moves)},
          {"max_over_mean_before", result.before},
          {"max_over_mean_after", result.after}};
}

}  // namespace

HttpResponse expert_placement(ServerState& state, const HttpRequest& /*request*/) {
  require_experts(state);
  const engine::EngineStats stats = state.context.model.engine.stats();
  const std::shared_ptr<const engine::ExpertReport>& report = stats.experts;
  const parallel::ExpertPlacement placement = placement_in_force(state.context.model, stats);
  Json body = Json::parse(placement.to_json());
  body["movable"] = report != nullptr;
  body["slots_per_rank"] = placement.slots_per_rank();
  if (report != nullptr) {
    std::vector<double> balance;
    for (int l = 0; l < placement.num_layers(); ++l) {
      balance.push_back(placement.imbalance(l, report->load[static_cast<size_t>(l)]));
    }
    body["max_over_mean"] = std::move(balance);
    body["moved"] = to_json(report->moves);
    if (!report->last.after.empty()) body["last_rebalance"] = to_json(report->last);
  }
  return {.body = to_text(body)};
}

void rebalance_experts(ServerState& state, const HttpRequest& /*request*/,
                       const std::shared_ptr<Exchange>& exchange) {
  require_experts(state);
  state.context.model.engine.rebalance_experts([exchange](const engine::RebalanceResult* result) {
    HttpResponse response;
    if (result == nullptr) {
      response = error_response(
          {.status = 400,
           .message = "experts cannot move here: that takes ranks that own different experts"});
    } else {
      Json body = to_json(*result);
      body["status"] = "ok";
      response.body = to_text(body);
    }
    exchange->post([exchange, response = std::move(response)] { exchange->respond(response); });
  });
}

}  // namespace chorale::server
