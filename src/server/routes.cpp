#include "server/routes.h"

#include <algorithm>
#include <array>

#include "server/endpoints/anthropic_messages.h"
#include "server/endpoints/chat_completions.h"
#include "server/endpoints/completions.h"
#include "server/endpoints/control.h"
#include "server/endpoints/expert_distribution.h"
#include "server/endpoints/expert_placement.h"
#include "server/endpoints/generate.h"
#include "server/endpoints/health.h"
#include "server/endpoints/info.h"
#include "server/endpoints/metrics.h"
#include "server/endpoints/models.h"
#include "server/endpoints/openapi.h"
#include "server/endpoints/page.h"
#include "server/endpoints/responses.h"
#include "server/endpoints/switch_strategy.h"
#include "server/endpoints/tokenize.h"

namespace chorale::server {
namespace {

constexpr std::string_view kName = "{name}";

bool matches(const Route& route, std::string_view path) {
  const size_t at = route.path.find(kName);
  if (at == std::string_view::npos) return path == route.path;
  const std::string_view end = route.path.substr(at + kName.size());
  return path.size() >= at + end.size() && path.starts_with(route.path.substr(0, at)) && path.ends_with(end);
}

}  // namespace

std::span<const Route> routes() {
  static constexpr std::array kRoutes = std::to_array<Route>({
      {"/", Methods::get, &page},
      {"/health", Methods::get, &health},
      {"/ping", Methods::get_and_post, &health},
      {"/health_generate", Methods::get, &health_generate},
      {"/metrics", Methods::get, &metrics_text},
      {"/openapi.json", Methods::get, &openapi},
      {"/v1/models", Methods::get, &list_models},
      {"/v1/models/{name}", Methods::get, &describe_model},
      {"/get_model_info", Methods::get, &model_info},
      {"/model_info", Methods::get, &model_info},
      {"/get_server_info", Methods::get, &server_info},
      {"/server_info", Methods::get, &server_info},
      {"/version", Methods::get, &version},
      {"/get_load", Methods::get, &load_info},
      {"/tokenizer_info", Methods::get, &tokenizer_info},
      {"/v1/chat/completions", Methods::post, Generate{"chatcmpl-", &plan_chat}},
      {"/v1/completions", Methods::post, Generate{"cmpl-", &plan_completions}},
      {"/v1/responses", Methods::post, Generate{"resp_", &plan_responses}},
      {"/v1/responses/{name}/input_items", Methods::get, &response_input_items},
      {"/v1/responses/{name}/cancel", Methods::post, &cancel_response},
      {"/v1/responses/{name}", Methods::get_and_delete, &stored_response},
      {"/v1/messages", Methods::post, Generate{"msg_", &plan_messages}},
      {"/v1/messages/count_tokens", Methods::post, &count_message_tokens},
      {"/generate", Methods::post, Generate{"gen-", &plan_generate}},
      {"/abort_request", Methods::post, &abort_request},
      {"/flush_cache", Methods::get_and_post, &flush_cache, Door::admin},
      {"/tokenize", Methods::post, &tokenize},
      {"/detokenize", Methods::post, &detokenize},
      {"/start_expert_distribution_record", Methods::get_and_post, &start_recording_experts, Door::admin},
      {"/stop_expert_distribution_record", Methods::get_and_post, &stop_recording_experts, Door::admin},
      {"/dump_expert_distribution_record", Methods::get_and_post, &dump_recorded_experts, Door::admin},
      {"/expert_placement", Methods::get, &expert_placement},
      {"/rebalance_experts", Methods::post, &rebalance_experts, Door::admin},
      {"/switch_strategy", Methods::post, &switch_strategy, Door::admin},
  });
  return kRoutes;
}

const Route* find_route(std::string_view path) {
  const auto found = std::ranges::find_if(routes(), [&](const Route& route) { return matches(route, path); });
  return found == routes().end() ? nullptr : &*found;
}

std::string_view served_path(std::string_view path) {
  if (path.size() < 2 || !path.ends_with('/') || find_route(path) != nullptr) return path;
  const std::string_view shorter = path.substr(0, path.size() - 1);
  return find_route(shorter) != nullptr ? shorter : path;
}

bool is_admin_door(std::string_view path) {
  const Route* route = find_route(served_path(path));
  return route != nullptr && route->door == Door::admin;
}

}  // namespace chorale::server
