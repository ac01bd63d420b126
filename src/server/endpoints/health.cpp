#include "server/endpoints/health.h"

#include <chrono>
#include <memory>
#include <utility>

#include <fmt/format.h>

#include "server/http/random_id.h"
#include "server/wire/bad_request.h"
#include "server/wire/error_answer.h"
#include "server/wire/json_body.h"

namespace chorale::server {

HttpResponse health(ServerState& state, const HttpRequest& /*request*/) {
  if (state.draining) throw BadRequest(ErrorAnswer{.status = 503, .message = "the server is stopping"});
  if (state.context.model.engine.stats().failed) {
    throw BadRequest(
        ErrorAnswer{.status = 503, .message = "the model has failed; the server must be restarted"});
  }
  return {.body = to_text({{"status", "ok"}})};
}

// One token for the id 0, whatever it is: it must go through the queue, a step and the sampler.
void health_generate(ServerState& state, const HttpRequest& /*request*/,
                     const std::shared_ptr<Exchange>& exchange) {
  if (state.draining) throw BadRequest(ErrorAnswer{.status = 503, .message = "the server is stopping"});
  engine::Engine& engine = state.context.model.engine;
  engine::GenerationRequest probe;
  probe.id = random_id("health-");
  probe.prompt_ids = {0};
  probe.sampling.max_new_tokens = 1;
  probe.sampling.temperature = 0;
  const auto ticket = std::make_shared<LiveRequests::Ticket>(state.live, probe.id, probe.id);
  auto error = engine.submit(probe, [ticket, exchange](engine::GenerationEvent event) {
    if (event.finish == engine::FinishReason::none) return;
    exchange->post([exchange, made = !event.token_ids.empty()] {
      exchange->respond(made ? HttpResponse{.body = to_text({{"status", "ok"}})}
                             : error_response({.status = 503, .message = "the model makes no tokens"}));
    });
  });
  if (error) throw BadRequest(ErrorAnswer{.status = 503, .message = std::move(error->message)});
  exchange->on_gone([&engine, id = probe.id] { engine.abort(id); });
  const std::chrono::duration<double> patience(state.health_check_timeout_seconds);
  const auto give_up = [&engine, id = probe.id, exchange, patience] {
    engine.abort(id);
    exchange->respond(error_response(
        {.status = 503,
         .message = fmt::format("the model has made no token in {} seconds", patience.count())}));
  };
  exchange->on_timeout(std::chrono::ceil<std::chrono::milliseconds>(patience), give_up);
}

}  // namespace chorale::server
