#include "server/api.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <ctime>
#include <filesystem>
#include <optional>
#include <random>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "base/log.h"
#include "server/endpoints/chat_completions.h"
#include "server/endpoints/completions.h"
#include "server/endpoints/generate.h"
#include "server/endpoints/native.h"
#include "server/endpoints/page.h"
#include "server/wire/bad_request.h"
#include "server/wire/error_answer.h"
#include "server/wire/fields.h"

// src/server/endpoints/openapi.json, see cmake/ChoraleEmbed.cmake.
extern "C" {
extern const char chorale_embedded_openapi[], chorale_embedded_openapi_end[];
}

namespace chorale::server {
namespace {

constexpr std::string_view kModels = "/v1/models";

// Of grammars, each of which may take a second: so they take no more than one core, and only those who ask
// for them wait. The queue is bounded by what a client may be expected to wait for.
constexpr int kCompilationThreads = 1;
constexpr size_t kMaxCompilations = 256;

std::string served_name(const ServerOptions& options, const ServerModel& model) {
  if (!options.served_model_name.empty()) return options.served_model_name;
  std::filesystem::path path(model.model_path);
  if (!path.has_filename()) path = path.parent_path();  // "models/x/"
  const std::string name = path.filename().string();
  return name.empty() || name == "." || name == ".." ? "chorale" : name;
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
                         {"instruction_set", model.instruction_set}},
          .model_info = {{"dtype", model.dtype},
                         {"strategy", model.strategy},
                         {"num_layers", std::to_string(model.num_layers)},
                         {"num_experts", std::to_string(model.num_experts)},
                         {"num_experts_per_token", std::to_string(model.num_experts_per_token)},
                         {"max_model_len", std::to_string(model.max_context_len)}},
          .sglang_names = options.sglang_metrics,
          .vllm_names = options.vllm_metrics};
}

std::string random_hex() {
  std::random_device device;
  return fmt::format("{:08x}{:08x}", device(), device());
}

// The bytes that %XX stand for in a path. What is not of that form stays as it is.
std::string percent_decoded(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    unsigned int byte = 0;
    const char* end = text.data() + std::min(i + 3, text.size());
    if (text[i] == '%' && std::from_chars(text.data() + i + 1, end, byte, 16).ptr == text.data() + i + 3) {
      out += static_cast<char>(byte);
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

// For the log.
std::string name_of(const HttpRequest& request) {
  return fmt::format("{} {}", request.method, request.path);
}

HttpResponse method_refused(const HttpRequest& request, std::string_view allowed) {
  HttpResponse response = error_response(
      {.status = 405,
       .message = fmt::format("{} takes {}, not {}", request.path, allowed, quote(request.method))});
  response.headers.emplace_back("Allow", allowed);
  return response;
}

// What a browser may send to another site without being asked is not JSON: so no web page can use this
// server.
void check_content_type(const HttpRequest& request) {
  const std::string& type = request.content_type;
  if (type.empty() || type == "application/json" || type.ends_with("+json")) return;
  throw BadRequest(ErrorAnswer{
      .status = 415, .message = fmt::format("the body must be application/json, not {}", quote(type))});
}

// The answer to the exception that is being handled.
HttpResponse failure_response(std::string_view what) {
  try {
    throw;
  } catch (const BadRequest& bad) {
    return error_response(bad.answer());
  } catch (const std::exception& error) {
    log::error("{}: {}", what, error.what());
    return error_response({.status = 500, .message = "the server failed to handle this request"});
  }
}

Json json_body(const HttpRequest& request) {
  check_content_type(request);
  return parse_json_body(request.body);
}

}  // namespace

Api::Api(const ServerOptions& options, const ServerModel& model)
    : context_{options.limits, model, served_name(options, model),
               model.vocab_size > 0 ? model.vocab_size : model.tokenizer.vocab_size()},
      metrics_(metrics_options(options, model, context_.model_name)),
      expert_load_(std::make_shared<ExpertLoad>(model.placement)),
      services_{model.engine, model.tokenizer, metrics_, live_, options.log_requests},
      health_check_timeout_seconds_(options.health_check_timeout_seconds),
      id_base_(random_hex()),
      created_(std::time(nullptr)),
      compilation_(kCompilationThreads, kMaxCompilations),
      work_(options.http.io_threads) {}

std::string Api::new_id(const char* prefix) {
  return fmt::format("{}{}{:08x}", prefix, id_base_, next_id_++);
}

void Api::handle(HttpRequest request, const std::shared_ptr<Exchange>& exchange) {
  const std::string what = name_of(request);
  try {
    route(std::move(request), exchange);
  } catch (...) {
    exchange->respond(failure_response(what));
  }
}

template <typename Work>
void Api::answer_from_work(const std::string& what, const std::shared_ptr<Exchange>& exchange,
                           const Work& work) {
  std::function<void()> answer;
  try {
    answer = work();
  } catch (...) {
    answer = [exchange, response = failure_response(what)] { exchange->respond(response); };
  }
  if (!answer) return;
  exchange->post([exchange, what, answer = std::move(answer)] {
    try {
      answer();
    } catch (...) {
      exchange->respond(failure_response(what));
    }
  });
}

// HEAD goes where GET goes. What changes something, or costs much, is not a GET, but for what clients of
// SGLang send.
const std::vector<Api::Route>& Api::routes() {
  static const std::vector<Route> routes = {
      {"/", true, false, false, &Api::page},
      {"/health", true, false, false, &Api::health},
      {"/health_generate", true, false, false, &Api::health_generate},
      {"/metrics", true, false, false, &Api::metrics},
      {"/openapi.json", true, false, false, &Api::openapi},
      {kModels, true, false, false, &Api::models},
      {"/get_model_info", true, false, false, &Api::get_model_info},
      {"/model_info", true, false, false, &Api::get_model_info},
      {"/get_server_info", true, false, false, &Api::get_server_info},
      {"/server_info", true, false, false, &Api::get_server_info},
      {"/v1/chat/completions", false, true, true, &Api::generate},
      {"/v1/completions", false, true, true, &Api::generate},
      {"/generate", false, true, true, &Api::generate},
      {"/abort_request", false, true, false, &Api::abort_request},
      {"/flush_cache", true, true, false, &Api::flush_cache},
      {"/tokenize", false, true, true, &Api::tokens},
      {"/detokenize", false, true, true, &Api::tokens},
      {"/start_expert_distribution_record", true, true, false, &Api::record_experts},
      {"/stop_expert_distribution_record", true, true, false, &Api::record_experts},
      {"/dump_expert_distribution_record", true, true, false, &Api::record_experts},
  };
  return routes;
}

void Api::route(HttpRequest request, const std::shared_ptr<Exchange>& exchange) {
  const std::string_view path = request.path.starts_with("/v1/models/") ? kModels : request.path;
  const auto found = std::ranges::find(routes(), path, &Route::path);
  if (found == routes().end())
    throw BadRequest(
        ErrorAnswer{.status = 404, .message = fmt::format("there is no {}", quote(request.path))});
  const std::string allowed =
      fmt::format("{}{}OPTIONS", found->get ? "GET, HEAD, " : "", found->post ? "POST, " : "");
  if (request.method == "OPTIONS") {
    return exchange->respond({.status = 204, .headers = {{"Allow", allowed}}});
  }
  const bool is_get = request.method == "GET" || request.method == "HEAD";
  if (!(is_get && found->get) && !(request.method == "POST" && found->post)) {
    return exchange->respond(method_refused(request, allowed));
  }
  if (!found->slow) return (this->*found->handle)(request, exchange);
  if (draining_) throw BadRequest(ErrorAnswer{.status = 503, .message = "the server is stopping"});
  request.arrival = std::chrono::steady_clock::now();
  auto shared = std::make_shared<const HttpRequest>(std::move(request));
  work_.post([this, handle = found->handle, shared, exchange] { (this->*handle)(*shared, exchange); });
}

// On a thread of the work queue.
void Api::generate(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange) {
  const std::string what = name_of(request);
  answer_from_work(what, exchange, [&]() -> std::function<void()> {
    auto made = std::make_shared<AnswerPlan>(plan(request));
    if (constrain(*made, &find_output_format)) return start_of(made, exchange);
    const bool waits = compilation_.post([this, what, made, exchange] {
      answer_from_work(what, exchange, [&] {
        constrain(*made, &compile_output_format);
        return start_of(made, exchange);
      });
    });
    if (!waits)
      throw BadRequest(ErrorAnswer{.status = 503, .message = "too many grammars wait to be compiled"});
    return nullptr;
  });
}

std::function<void()> Api::start_of(const std::shared_ptr<AnswerPlan>& plan,
                                    const std::shared_ptr<Exchange>& exchange) {
  return [this, plan, exchange] { Answer::start(services_, std::move(*plan), exchange); };
}

// Gives every choice its constraint. False where one of them is not to be had.
bool Api::constrain(AnswerPlan& plan,
                    engine::ConstraintFactory (*make)(const OutputFormat&, const ServerModel&)) const {
  const OutputFormat* last = nullptr;  // several choices follow one
  engine::ConstraintFactory factory;
  for (PlannedChoice& choice : plan.choices) {
    if (choice.output_format == nullptr) continue;
    if (choice.output_format.get() != last) factory = make(*choice.output_format, context_.model);
    if (!factory) return false;
    last = choice.output_format.get();
    choice.request.constraint = factory;
  }
  return true;
}

AnswerPlan Api::plan(const HttpRequest& request) {
  const Json body = json_body(request);
  const AnswerHead head{"", std::time(nullptr), context_.model_name};
  AnswerPlan plan;
  if (request.path == "/generate") {
    plan = plan_generate(body, new_id("gen-"), context_);
  } else if (request.path == "/v1/completions") {
    plan = plan_completions(body, {new_id("cmpl-"), head.created, head.model}, context_);
  } else {
    plan = plan_chat(body, {new_id("chatcmpl-"), head.created, head.model}, context_);
  }
  plan.arrival = request.arrival;
  return plan;
}

void Api::page(const HttpRequest& /*request*/, const std::shared_ptr<Exchange>& exchange) {
  exchange->respond(page_response());
}

void Api::openapi(const HttpRequest& /*request*/, const std::shared_ptr<Exchange>& exchange) {
  exchange->respond({.body = std::string(chorale_embedded_openapi, chorale_embedded_openapi_end)});
}

void Api::health(const HttpRequest& /*request*/, const std::shared_ptr<Exchange>& exchange) {
  if (draining_) throw BadRequest(ErrorAnswer{.status = 503, .message = "the server is stopping"});
  if (context_.model.engine.stats().failed) {
    throw BadRequest(
        ErrorAnswer{.status = 503, .message = "the model has failed; the server must be restarted"});
  }
  exchange->respond({.body = to_text({{"status", "ok"}})});
}

// One token for the id 0, whatever it is: it must go through the queue, a step and the sampler.
void Api::health_generate(const HttpRequest& /*request*/, const std::shared_ptr<Exchange>& exchange) {
  if (draining_) throw BadRequest(ErrorAnswer{.status = 503, .message = "the server is stopping"});
  engine::GenerationRequest probe;
  probe.id = new_id("health-");
  probe.prompt_ids = {0};
  probe.sampling.max_new_tokens = 1;
  probe.sampling.temperature = 0;
  const auto ticket = std::make_shared<LiveRequests::Ticket>(live_, probe.id, probe.id);
  auto error = context_.model.engine.submit(probe, [ticket, exchange](engine::GenerationEvent event) {
    if (event.finish == engine::FinishReason::none) return;
    exchange->post([exchange, made = !event.token_ids.empty()] {
      exchange->respond(made ? HttpResponse{.body = to_text({{"status", "ok"}})}
                             : error_response({.status = 503, .message = "the model makes no tokens"}));
    });
  });
  if (error) throw BadRequest(ErrorAnswer{.status = 503, .message = std::move(error->message)});
  exchange->on_gone([this, id = probe.id] { context_.model.engine.abort(id); });
  const std::chrono::duration<double> patience(health_check_timeout_seconds_);
  const auto give_up = [this, id = probe.id, exchange, patience] {
    context_.model.engine.abort(id);
    exchange->respond(error_response(
        {.status = 503,
         .message = fmt::format("the model has made no token in {} seconds", patience.count())}));
  };
  exchange->on_timeout(std::chrono::ceil<std::chrono::milliseconds>(patience), give_up);
}

void Api::get_model_info(const HttpRequest& /*request*/, const std::shared_ptr<Exchange>& exchange) {
  exchange->respond({.body = to_text(model_info(context_))});
}

void Api::get_server_info(const HttpRequest& /*request*/, const std::shared_ptr<Exchange>& exchange) {
  exchange->respond({.body = to_text(server_info(context_, context_.model.engine.stats()))});
}

void Api::tokens(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange) {
  answer_from_work(name_of(request), exchange, [&] {
    const Json body = json_body(request);
    const bool to_ids = request.path == "/tokenize";
    const Json answer = to_ids ? tokenize(body, context_) : detokenize(body, context_);
    return [exchange, text = to_text(answer)] { exchange->respond({.body = text}); };
  });
}

// The id must be exactly the one that the client gave or was told. One that is not known is no error: the
// request may have just ended.
void Api::abort_request(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange) {
  const Json body = json_body(request);
  Fields fields(body, "");
  const std::optional<std::string> rid = fields.string("rid");
  const bool all = fields.boolean("abort_all").value_or(false);
  fields.accept({"abort_message"});
  fields.finish();
  if (!rid && !all) bad_request("rid", "'rid' is missing");
  const std::vector<std::string> ids = live_.cancel(all ? std::nullopt : rid);
  for (const std::string& id : ids) context_.model.engine.abort(id);
  exchange->respond({.body = to_text({{"status", "ok"}, {"aborted", ids.size()}})});
}

void Api::flush_cache(const HttpRequest& /*request*/, const std::shared_ptr<Exchange>& exchange) {
  context_.model.engine.flush_prefix_cache();
  exchange->respond(
      {.body = to_text({{"status", "ok"}, {"message", "the prefix cache is emptied before the next step"}})});
}

void Api::models(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange) {
  const std::string& path = request.path;
  Json model = {{"id", context_.model_name},
                {"object", "model"},
                {"created", created_},
                {"owned_by", "chorale"},
                {"max_model_len", context_.model.max_context_len}};
  if (path == kModels) {
    Json list = Json::array();
    list.push_back(std::move(model));
    return exchange->respond({.body = to_text({{"object", "list"}, {"data", std::move(list)}})});
  }
  const std::string name = percent_decoded(std::string_view(path).substr(kModels.size() + 1));
  if (name != context_.model_name) {
    throw BadRequest(
        ErrorAnswer{.status = 404,
                    .message = fmt::format("the model {} is not served here; this server has '{}'",
                                           quote(name), context_.model_name),
                    .param = "model"});
  }
  exchange->respond({.body = to_text(model)});
}

// The counts are asked of the engine, which answers between two steps.
void Api::record_experts(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange) {
  if (!expert_load_->distribution.has_experts())
    throw BadRequest(ErrorAnswer{.status = 400, .message = "the model has no experts"});
  context_.model.engine.get_expert_load(
      [state = expert_load_, path = request.path, exchange](std::vector<int64_t> counts) {
        HttpResponse response{.body = to_text({{"status", "ok"}})};
        if (path.starts_with("/start")) {
          state->distribution.start(std::move(counts));
        } else if (path.starts_with("/stop")) {
          state->distribution.stop(std::move(counts));
        } else if (const std::optional<Json> recorded = state->distribution.dump(counts)) {
          response.body = to_text(*recorded);
        } else {
          response = error_response(
              {.status = 400, .message = "nothing was recorded; /start_expert_distribution_record begins"});
        }
        exchange->post([exchange, response = std::move(response)] { exchange->respond(response); });
      });
}

void Api::metrics(const HttpRequest& /*request*/, const std::shared_ptr<Exchange>& exchange) {
  std::vector<LayerBalance> balance;
  if (expert_load_->distribution.has_experts()) {
    {
      const std::lock_guard lock(expert_load_->mutex);
      balance = expert_load_->distribution.balance(expert_load_->latest);
    }
    context_.model.engine.get_expert_load([state = expert_load_](std::vector<int64_t> counts) {
      const std::lock_guard lock(state->mutex);
      state->latest = std::move(counts);
    });
  }
  exchange->respond(
      {.body = metrics_.serialize(context_.model.engine.stats(), balance, activity_.generation_rate()),
       .content_type = "text/plain; version=0.0.4; charset=utf-8"});
}

}  // namespace chorale::server
