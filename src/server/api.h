// From a request to its endpoint, and from a request's fault to an HTTP answer.
#pragma once

#include <memory>

#include "server/endpoints/server_state.h"
#include "server/generation/request_work.h"
#include "server/http/exchange.h"
#include "server/routes.h"
#include "server/server.h"

namespace chorale::server {

// Thread-safe; outlives all exchanges it was given.
class Api {
 public:
  // controller: null, where nobody changes the strategy by the load.
  Api(const ServerOptions& options, const ServerModel& model, const engine::StrategyController* controller);

  // Runs on the exchange's strand; does not throw.
  void handle(HttpRequest request, const std::shared_ptr<Exchange>& exchange);

  // From now on /health and new requests get 503.
  void set_draining() { state_.draining = true; }
  // What waits to be read, tokenized or compiled ends soon.
  void give_up_work() { work_.give_up(); }
  // Drops requests that are not planned yet. Before the end of the connections that they came from.
  void stop_work() { work_.stop(); }
  LiveRequests& live() { return state_.live; }
  Activity& activity() { return state_.activity; }
  Metrics& counts() { return state_.metrics; }

 private:
  // Throws BadRequest.
  void dispatch(HttpRequest request, const std::shared_ptr<Exchange>& exchange);
  void run(RespondNow respond, HttpRequest request, const std::shared_ptr<Exchange>& exchange);
  void run(RespondLater respond, HttpRequest request, const std::shared_ptr<Exchange>& exchange);
  void run(RespondToBody respond, HttpRequest request, const std::shared_ptr<Exchange>& exchange);
  void run(Generate generate, HttpRequest request, const std::shared_ptr<Exchange>& exchange);
  // The context of one request.
  RequestContext context_of(const HttpRequest& request, const RequestWork::IsCancelled& is_cancelled) const;
  void refuse_while_draining() const;

  ServerState state_;
  RequestWork work_;  // last: its threads use everything above
};

}  // namespace chorale::server
