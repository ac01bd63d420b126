#include "server/endpoints/expert_distribution.h"

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "server/endpoints/placement_in_force.h"
#include "server/wire/bad_request.h"
#include "server/wire/error_answer.h"
#include "server/wire/json_body.h"

namespace chorale::server {
namespace {

using Answer = HttpResponse (*)(ExpertDistribution& distribution, std::vector<int64_t> counts,
                                const parallel::ExpertPlacement& now);

// By layer, of what was recorded, with the experts where they lie now.
Json balance_of(const ExpertDistribution& distribution, const Json& recorded,
                const parallel::ExpertPlacement& now) {
  std::vector<int64_t> counts;
  for (const Json& layer : recorded.at("logical_count")) {
    for (const Json& count : layer) counts.push_back(count.get<int64_t>());
  }
  Json layers = Json::array();
  for (const LayerBalance& layer : distribution.balance(counts, &now)) layers.push_back(layer.ranks);
  return layers;
}

void answer_with_counts(ServerState& state, const std::shared_ptr<Exchange>& exchange, Answer answer) {
  if (!state.expert_load->distribution.has_experts()) {
    throw BadRequest(ErrorAnswer{.status = 400, .message = "the model has no experts"});
  }
  engine::Engine& engine = state.context.model.engine;
  engine.get_expert_load([load = state.expert_load,
                          now = placement_in_force(state.context.model, engine.stats()), exchange,
                          answer](std::vector<int64_t> counts) {
    HttpResponse response = answer(load->distribution, std::move(counts), now);
    exchange->post([exchange, response = std::move(response)] { exchange->respond(response); });
  });
}

HttpResponse ok() {
  return {.body = to_text({{"status", "ok"}})};
}

}  // namespace

void start_recording_experts(ServerState& state, const HttpRequest& /*request*/,
                             const std::shared_ptr<Exchange>& exchange) {
  answer_with_counts(state, exchange,
                     [](ExpertDistribution& distribution, std::vector<int64_t> counts,
                        const parallel::ExpertPlacement& /*now*/) {
                       distribution.start(std::move(counts));
                       return ok();
                     });
}

void stop_recording_experts(ServerState& state, const HttpRequest& /*request*/,
                            const std::shared_ptr<Exchange>& exchange) {
  answer_with_counts(state, exchange,
                     [](ExpertDistribution& distribution, std::vector<int64_t> counts,
                        const parallel::ExpertPlacement& /*now*/) {
                       distribution.stop(std::move(counts));
                       return ok();
                     });
}

void dump_recorded_experts(ServerState& state, const HttpRequest& /*request*/,
                           const std::shared_ptr<Exchange>& exchange) {
  answer_with_counts(
      state, exchange,
      [](ExpertDistribution& distribution, std::vector<int64_t> counts,
         const parallel::ExpertPlacement& now) {
        std::optional<Json> recorded = distribution.dump(counts);
        if (recorded) {
          (*recorded)["balancedness"] = balance_of(distribution, *recorded, now);
          return HttpResponse{.body = to_text(*recorded)};
        }
        return error_response(
            {.status = 400, .message = "nothing was recorded; /start_expert_distribution_record begins"});
      });
}

}  // namespace chorale::server
