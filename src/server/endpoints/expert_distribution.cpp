#include "server/endpoints/expert_distribution.h"

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "server/wire/bad_request.h"
#include "server/wire/error_answer.h"
#include "server/wire/json_body.h"

namespace chorale::server {
namespace {

using Answer = HttpResponse (*)(ExpertDistribution& distribution, std::vector<int64_t> counts);

void answer_with_counts(ServerState& state, const std::shared_ptr<Exchange>& exchange, Answer answer) {
  if (!state.expert_load->distribution.has_experts()) {
    throw BadRequest(ErrorAnswer{.status = 400, .message = "the model has no experts"});
  }
  state.context.model.engine.get_expert_load(
      [load = state.expert_load, exchange, answer](std::vector<int64_t> counts) {
        HttpResponse response = answer(load->distribution, std::move(counts));
        exchange->post([exchange, response = std::move(response)] { exchange->respond(response); });
      });
}

HttpResponse ok() {
  return {.body = to_text({{"status", "ok"}})};
}

}  // namespace

void start_recording_experts(ServerState& state, const HttpRequest& /*request*/,
                             const std::shared_ptr<Exchange>& exchange) {
  answer_with_counts(state, exchange, [](ExpertDistribution& distribution, std::vector<int64_t> counts) {
    distribution.start(std::move(counts));
    return ok();
  });
}

void stop_recording_experts(ServerState& state, const HttpRequest& /*request*/,
                            const std::shared_ptr<Exchange>& exchange) {
  answer_with_counts(state, exchange, [](ExpertDistribution& distribution, std::vector<int64_t> counts) {
    distribution.stop(std::move(counts));
    return ok();
  });
}

void dump_recorded_experts(ServerState& state, const HttpRequest& /*request*/,
                           const std::shared_ptr<Exchange>& exchange) {
  answer_with_counts(state, exchange, [](ExpertDistribution& distribution, std::vector<int64_t> counts) {
    const std::optional<Json> recorded = distribution.dump(counts);
    if (recorded) return HttpResponse{.body = to_text(*recorded)};
    return error_response(
        {.status = 400, .message = "nothing was recorded; /start_expert_distribution_record begins"});
  });
}

}  // namespace chorale::server
