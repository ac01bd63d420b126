#include "server/endpoints/metrics.h"

#include <cstdint>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "engine/strategy_controller.h"
#include "server/endpoints/placement_in_force.h"
#include "server/metrics/policy_metrics.h"

namespace chorale::server {

HttpResponse metrics_text(ServerState& state, const HttpRequest& /*request*/) {
  const engine::EngineStats stats = state.context.model.engine.stats();
  std::vector<LayerBalance> balance;
  if (state.expert_load->distribution.has_experts()) {
    const parallel::ExpertPlacement placement = placement_in_force(state.context.model, stats);
    {
      const std::lock_guard lock(state.expert_load->mutex);
      balance = state.expert_load->distribution.balance(state.expert_load->latest, &placement);
    }
    state.context.model.engine.get_expert_load([load = state.expert_load](std::vector<int64_t> counts) {
      const std::lock_guard lock(load->mutex);
      load->latest = std::move(counts);
    });
  }
  std::string text = state.metrics.serialize(stats, balance, state.activity.generation_rate());
  if (state.strategy_controller != nullptr)
    text += policy_metrics(state.strategy_controller->report(), state.context.model_name);
  return {.body = std::move(text), .content_type = "text/plain; version=0.0.4; charset=utf-8"};
}

}  // namespace chorale::server
