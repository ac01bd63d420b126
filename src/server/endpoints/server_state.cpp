#include "server/endpoints/server_state.h"

#include <ctime>
#include <random>
#include <utility>

#include <fmt/format.h>

namespace chorale::server {
namespace {

std::string random_hex() {
  std::random_device device;
  return fmt::format("{:08x}{:08x}", device(), device());
}

}  // namespace

ServerState::ServerState(RequestContext request_context, MetricsOptions metrics_options)
    : context(std::move(request_context)),
      created(std::time(nullptr)),
      metrics(std::move(metrics_options)),
      expert_load(std::make_shared<ExpertLoad>(context.model.placement)),
      id_base_(random_hex()) {}

std::string ServerState::new_id(std::string_view prefix) {
  return fmt::format("{}{}{:08x}", prefix, id_base_, next_id_++);
}

}  // namespace chorale::server
