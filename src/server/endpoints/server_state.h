// What the endpoints of one server share.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "server/generation/answer_budget.h"
#include "server/generation/live_requests.h"
#include "server/generation/request_context.h"
#include "server/metrics/activity.h"
#include "server/metrics/expert_distribution.h"
#include "server/metrics/metrics.h"
#include "server/wire/json_body.h"

namespace chorale::engine {
class StrategyController;
}

namespace chorale::server {

// How many tokens went to each expert.
struct ExpertLoad {
  explicit ExpertLoad(const parallel::ExpertPlacement* placement) : distribution(placement) {}
  ExpertDistribution distribution;
  std::mutex mutex;
  std::vector<int64_t> latest;  // for /metrics, which does not wait for the engine
};

// Thread-safe; outlives all exchanges.
struct ServerState {
  // As RequestContext::holder.
  std::string holder_of(const HttpRequest& request) const { return isolate_keys ? request.holder : ""; }
  // As RequestContext::response_holder.
  std::string response_holder_of(const HttpRequest& request) const {
    return divides_responses ? request.holder : "";
  }

  ServerState(RequestContext request_context, MetricsOptions metrics_options, uint64_t max_answer_bytes);

  const RequestContext context;
  double health_check_timeout_seconds = 20;  // in which /health_generate wants a token
  bool isolate_keys = false;                 // no key's requests are seen or ended by another's holder
  bool divides_responses = false;            // what is stored for one key is not found by another's holder
  const engine::StrategyController* strategy_controller = nullptr;  // null: nobody changes the strategy
  std::atomic<bool> draining{false};                                // /health and new requests get 503
  const int64_t created;                                            // Unix time
  Metrics metrics;
  Activity activity;
  LiveRequests live;
  AnswerBudget answer_budget;
  const std::shared_ptr<ExpertLoad> expert_load;  // shared with callbacks that the engine may still hold
  const Json tokenizer_info;                      // what /tokenizer_info answers
};

}  // namespace chorale::server
