#include "server/api.h"

#include <algorithm>
#include <chrono>
#include <ctime>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <fmt/format.h>

#include "io/model_folder.h"
#include "server/http/random_id.h"
#include "server/path_hint.h"
#include "server/wire/bad_request.h"
#include "server/wire/error_answer.h"
#include "server/wire/json_body.h"

namespace chorale::server {
namespace {

// Small requests have one for themselves.
constexpr int kLeastWorkThreads = 2;

std::string served_name(const ServerOptions& options, const ServerModel& model) {
  if (!options.served_model_name.empty()) return options.served_model_name;
  const std::string name = io::model_name(model.model_path);
  return name.empty() || name == "." || name == ".." ? "chorale" : name;
}

std::vector<std::string> all_names(const ServerOptions& options, const ServerModel& model) {
  std::vector<std::string> names{served_name(options, model)};
  names.insert(names.end(), options.other_model_names.begin(), options.other_model_names.end());
  return names;
}

MetricsOptions metrics_options(const ServerOptions& options, const ServerModel& model,
                               const std::string& name) {
#ifdef __clang__
  const char* compiler = "clang " __clang_version__;
#else
  const char* compiler = "g++ " __VERSION__;
#endif
  return {.model_name = name,
          .build_info = {{"version", model.version},
                         {"compiler", compiler},
                         {"instruction_set", model.instruction_set},
                         {"device", model.device},
                         {"device_name", model.device_description}},
          .model_info = {{"dtype", model.dtype},
                         {"schedule_policy", engine::name_of(model.engine.options().schedule_policy)},
                         {"num_layers", std::to_string(model.num_layers)},
                         {"num_experts", std::to_string(model.num_experts)},
                         {"num_experts_per_token", std::to_string(model.num_experts_per_token)},
                         {"max_model_len", std::to_string(model.max_context_len)}},
          .strategy = [model] { return model.current_strategy(); },
          .free_device_memory = model.free_device_memory,
          .sglang_names = options.sglang_metrics,
          .vllm_names = options.vllm_metrics};
}

RequestContext request_context(const ServerOptions& options, const ServerModel& model) {
  return {.limits = options.limits,
          .model = model,
          .model_name = served_name(options, model),
          .model_names = all_names(options, model),
          .vocab_size = model.vocab_size > 0 ? model.vocab_size : model.tokenizer.vocab_size(),
          .responses = std::make_shared<ResponseStore>(options.max_stored_responses),
          .special_texts =
              options.escape_special_tokens ? std::make_shared<const SpecialTexts>(model.tokenizer) : nullptr,
          .clip_max_tokens = options.clip_max_tokens};
}

RequestLabel label_of(const HttpRequest& request) {
  return {fmt::format("{} {}", request.method, request.path), error_form_of(request.path)};
}

HttpResponse method_refused(const HttpRequest& request, std::string_view allowed) {
  HttpResponse response = error_response(
      {.status = 405,
       .message = fmt::format("{} takes {}, not {}", request.path, allowed, quote(request.method))},
      error_form_of(request.path));
  response.headers.emplace_back("Allow", allowed);
  return response;
}

}  // namespace

Api::Api(const ServerOptions& options, const ServerModel& model, const engine::StrategyController* controller)
    : state_(request_context(options, model), metrics_options(options, model, served_name(options, model)),
             options.max_answer_bytes),
      work_(std::max(options.http.io_threads, kLeastWorkThreads),
            static_cast<size_t>(options.max_waiting_requests),
            {model.engine, model.tokenizer, state_.metrics, state_.live, state_.answer_budget,
             options.log_requests},
            model) {
  state_.strategy_controller = controller;
  state_.isolate_keys = options.isolate_keys;
  state_.divides_responses = options.isolate_keys || !options.http.api_keys.empty();
  state_.health_check_timeout_seconds = options.health_check_timeout_seconds;
}

void Api::handle(HttpRequest request, const std::shared_ptr<Exchange>& exchange) {
  const RequestLabel what = label_of(request);
  try {
    dispatch(std::move(request), exchange);
  } catch (...) {
    exchange->respond(failure_response(what));
  }
}

void Api::dispatch(HttpRequest request, const std::shared_ptr<Exchange>& exchange) {
  request.path.resize(served_path(request.path).size());
  const Route* route = find_route(request.path);
  if (route == nullptr) {
    throw BadRequest(ErrorAnswer{
        .status = 404,
        .message = fmt::format("there is no {}{}", quote(request.path), path_hint(request.path))});
  }
  const std::string allowed =
      fmt::format("{}{}{}OPTIONS", route->takes_get() ? "GET, HEAD, " : "",
                  route->takes_post() ? "POST, " : "", route->takes_delete() ? "DELETE, " : "");
  if (request.method == "OPTIONS") {
    return exchange->respond({.status = 204, .headers = {{"Allow", allowed}}});
  }
  const bool is_get = request.method == "GET" || request.method == "HEAD";
  if (!(is_get && route->takes_get()) && !(request.method == "POST" && route->takes_post()) &&
      !(request.method == "DELETE" && route->takes_delete())) {
    return exchange->respond(method_refused(request, allowed));
  }
  std::visit([&](const auto& work) { run(work, std::move(request), exchange); }, route->work);
}

void Api::run(RespondNow respond, HttpRequest request, const std::shared_ptr<Exchange>& exchange) {
  exchange->respond(respond(state_, request));
}

void Api::run(RespondLater respond, HttpRequest request, const std::shared_ptr<Exchange>& exchange) {
  respond(state_, request, exchange);
}

void Api::run(RespondToBody respond, HttpRequest request, const std::shared_ptr<Exchange>& exchange) {
  refuse_while_draining();
  WorkRequest work{label_of(request), exchange, request.body.size()};
  work_.respond(
      std::move(work),
      [this, respond,
       request = std::move(request)](const RequestWork::IsCancelled& is_cancelled) -> HttpResponse {
        return {.body = to_text(respond(parse_json_body(request), context_of(request, is_cancelled)))};
      });
}

void Api::run(Generate generate, HttpRequest request, const std::shared_ptr<Exchange>& exchange) {
  refuse_while_draining();
  request.arrival = std::chrono::steady_clock::now();
  WorkRequest work{label_of(request), exchange, request.body.size()};
  work_.generate(std::move(work), [this, generate, request = std::move(request)](
                                      const RequestWork::IsCancelled& is_cancelled) {
    const Json body = parse_json_body(request);
    AnswerHead head{random_id(generate.id_prefix), std::time(nullptr), state_.context.model_name};
    AnswerPlan plan = generate.plan(body, std::move(head), context_of(request, is_cancelled));
    plan.holder = state_.holder_of(request);
    plan.arrival = request.arrival;
    return plan;
  });
}

RequestContext Api::context_of(const HttpRequest& request,
                               const RequestWork::IsCancelled& is_cancelled) const {
  RequestContext context = state_.context;
  context.holder = state_.holder_of(request);
  context.response_holder = state_.response_holder_of(request);
  context.is_cancelled = is_cancelled;
  return context;
}

void Api::refuse_while_draining() const {
  if (state_.draining) throw BadRequest(ErrorAnswer{.status = 503, .message = "the server is stopping"});
}

}  // namespace chorale::server
