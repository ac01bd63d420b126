// chorale serve: the HTTP server.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include "apps/command.h"
#include "apps/foreign_flags.h"
#include "apps/recommend.h"
#include "apps/scheduling_flags.h"
#include "apps/settings.h"
#include "apps/strategy_policy_flag.h"
#include "apps/text_model.h"
#include "base/error.h"
#include "base/log.h"
#include "base/math.h"
#include "engine/engine.h"
#include "engine/rank_processes.h"
#include "engine/strategy_controller.h"
#include "engine/strategy_switch.h"
#include "server/http/cors.h"
#include "server/server.h"
#include "text/chat_template.h"
#include "text/grammar.h"
#include "text/tokenizer.h"
#include "tools/chat_warning.h"
#include "tools/load_tokenizer.h"

namespace chorale::apps {
namespace {

constexpr int kModelFailed = 70;
constexpr const char* kKeyVariable = "CHORALE_API_KEY";
constexpr const char* kAdminKeyVariable = "CHORALE_ADMIN_API_KEY";

struct ServeFlags {
  engine::LoadOptions load;
  StrategyFlag strategy;
  std::string strategy_policy;
  std::filesystem::path chat_template;  // empty: the model's
  engine::EngineOptions engine;
  server::ServerOptions server;
  bool disable_radix_cache = false;
  std::string log_level = "info";
  std::string log_format = "text";
  std::vector<std::string> metrics_compat;
  std::vector<std::string> model_names;
  std::string version;
};

// As many requests of full length as the KV cache holds, of all data-parallel groups.
void log_capacity(const engine::ModelInfo& model, int64_t wanted_length) {
  const int64_t length = model.max_context_len;
  if (length < wanted_length) {
    log::warn(
        "a request may have {} tokens, prompt and answer together, not the {} of the context: the KV cache "
        "holds no more; --kv-cache-dtype int8 nearly doubles it, --context-length {} says that it is meant",
        length, wanted_length, length);
  }
  const int64_t blocks = ceil_div(length, model.block_tokens());
  const int64_t per_group = model.max_total_tokens / (blocks * model.block_tokens());
  const int64_t groups = model.kv_tokens_total() / model.max_total_tokens;
  log::info("KV cache: {} tokens, {} requests of {}", model.kv_tokens_total(), groups * per_group, length);
}

std::function<uint64_t()> free_memory_of(const Device& device) {
  if (device.is_cpu()) return nullptr;
  return [driver = device.driver()] { return driver->free_memory(); };
}

void warn_of_files(const io::ModelConfig& config, const std::optional<text::ChatTemplate>& chat) {
  if (const auto warning = tools::chat_warning(chat)) log::warn("{}", *warning);
  if (config.has_dual_chunk_attention) log::warn("{}", io::kDualChunkAttention);
}

server::ServerOptions server_options(const ServeFlags& flags) {
  server::ServerOptions options = flags.server;
  options.max_waiting_requests = flags.engine.max_queued_requests;
  if (!flags.model_names.empty()) {
    options.served_model_name = flags.model_names.front();
    options.other_model_names.assign(flags.model_names.begin() + 1, flags.model_names.end());
  }
  for (const std::string& name : flags.metrics_compat) {
    if (name == "sglang") options.sglang_metrics = true;
    if (name == "vllm") options.vllm_metrics = true;
  }
  return options;
}

engine::EngineOptions engine_options(const ServeFlags& flags, const engine::ModelInfo& info,
                                     const std::vector<int32_t>& eos_token_ids) {
  engine::EngineOptions options = flags.engine;
  options.max_total_tokens = info.max_total_tokens;
  options.chunked_prefill_size = flags.load.chunked_prefill_size;
  options.max_running_requests = flags.load.max_running_requests;
  options.max_context_len = info.max_context_len;
  options.enable_prefix_cache = !flags.disable_radix_cache;
  options.eos_token_ids = eos_token_ids;
  options.eplb.enabled = flags.load.parallel.enable_eplb;
  return options;
}

// An empty one would be taken for none, and let everybody in.
void check_key_variable(const char* variable, const std::vector<std::string>& keys) {
  const char* key = std::getenv(variable);
  if (key != nullptr && *key == '\0' && keys.empty()) {
    throw_error("{} is empty: expected a key, or no such variable", variable);
  }
}

std::string check_key(const std::string& key) {
  const bool usable =
      !key.empty() && std::all_of(key.begin(), key.end(), [](char c) { return c > ' ' && c < 127; });
  return usable ? std::string() : "expected a key of printable ASCII characters without spaces";
}

// What the server works with beside the model's weights.
struct ServedFiles {
  io::ModelConfig config;
  text::Tokenizer tokenizer;
  std::vector<int32_t> eos_token_ids;
  std::optional<text::ChatTemplate> chat;
};

// Answers requests until the server is to end; the exit status. `server` listens, and says that the model is
// being loaded.
int serve_model(const ServeFlags& flags, const ServedFiles& files, std::optional<PlannedPolicy> policy,
                engine::LoadedModel& model, std::unique_ptr<server::Server> listening) {
  const engine::ModelInfo& info = model.info();
  const io::ModelConfig& config = files.config;
  const engine::EngineOptions options = engine_options(flags, info, files.eos_token_ids);
  engine::Engine engine(model.runner(), options);
  log_capacity(info,
               flags.load.context_length > 0 ? flags.load.context_length : config.max_position_embeddings);

  std::optional<text::GrammarCompiler> grammars;
  if (options.eos_token_ids.empty()) {
    log::warn("the model names no token that ends its output, so structured output is refused");
  } else {
    grammars.emplace(files.tokenizer, config.vocab_size, options.eos_token_ids);
  }
  engine::StrategySwitch strategy_switch(model, engine);
  std::optional<engine::StrategyController> controller;
  if (policy) {
    // Where experts move to their load, that is even.
    const bool looks_at_experts = config.num_experts > 0 && !options.eplb.enabled;
    controller.emplace(engine, strategy_switch, std::move(policy->policy), std::move(policy->models),
                       looks_at_experts ? static_cast<size_t>(config.num_experts) : 0);
  }
  const std::unique_ptr<server::Server> server = std::move(listening);  // ends before the engine
  server->set_model({.engine = engine,
                     .tokenizer = files.tokenizer,
                     .chat = files.chat ? &*files.chat : nullptr,
                     .grammars = grammars ? &*grammars : nullptr,
                     .defaults = info.generation_defaults,
                     .max_context_len = info.max_context_len,
                     .vocab_size = config.vocab_size,
                     .model_path = flags.load.model_path.string(),
                     .placement = config.num_experts > 0 ? &info.parallel.placement : nullptr,
                     .strategy_switch = &strategy_switch,
                     .dtype = info.dtype_name(),
                     .quantization = info.quantization_name(),
                     .device = info.device,
                     .device_description = info.device_description,
                     .free_device_memory = free_memory_of(model.device()),
                     .instruction_set = info.instruction_set_name(),
                     .version = flags.version,
                     .strategy = parallel::to_string(info.parallel.strategy),
                     .num_layers = config.num_hidden_layers,
                     .num_experts = config.num_experts,
                     .num_experts_per_token = config.num_experts_per_tok},
                    controller ? &*controller : nullptr);
  server->run();
  if (!engine.stats().failed) return 0;
  // What failed may still hold threads, or other processes that wait; nothing here can be taken apart in
  // order.
  log::critical(
      "the server ends because the model has failed{}",
      info.device_description.empty() ? "" : fmt::format(" on {}, {}", info.device, info.device_description));
  log::flush();
  std::_Exit(kModelFailed);
}

int run_serve(const ServeFlags& flags) {
  std::signal(SIGPIPE, SIG_IGN);  // the server goes on when the reader of its log leaves
  log::set_level(log::parse_level(flags.log_level));
  log::set_format(flags.log_format == "json" ? log::Format::json : log::Format::text);
  engine::check_launcher(flags.load.parallel);
  check_key_variable(kKeyVariable, flags.server.http.api_keys);
  check_key_variable(kAdminKeyVariable, flags.server.http.admin_api_keys);
  io::ModelConfig config = io::load_model_config(flags.load.model_path);
  text::Tokenizer tokenizer = load_tokenizer(flags.load, config);
  std::vector<int32_t> eos_token_ids = tools::end_tokens(flags.load.model_path, config, tokenizer);
  const ServedFiles files{std::move(config), std::move(tokenizer), std::move(eos_token_ids),
                          load_chat_template(flags.load.model_path, flags.chat_template)};
  warn_of_files(files.config, files.chat);

  // A port that is in use is told before the weights are read, and probes hear that the server is coming.
  auto server = std::make_unique<server::Server>(server_options(flags));
  engine::LoadOptions load = flags.load;
  StrategyFlag strategy = flags.strategy;
  apply_strategy_flag(strategy, load, files.config);
  std::optional<PlannedPolicy> policy =
      plan_strategy_policy(flags.strategy_policy, strategy, load, files.config);
  load.before_weights = [&server] {
    server->listen();
    server->begin();
    log::info("{} answers 503 until the model is loaded", server->url());
  };
  engine::LoadedModel model = engine::LoadedModel::load(load);
  if (!model.is_driver()) return model.serve_steps();
  const log::Background background;  // from here on clients would wait for whoever reads the log
  return serve_model(flags, files, std::move(policy), model, std::move(server));
}

void add_eplb_flags(CLI::App& app, ServeFlags& flags) {
  constexpr const char* kGroup = "Parallel strategy";
  app.add_flag("--enable-eplb", flags.load.parallel.enable_eplb,
               "Move experts between ranks by their load while requests run; the same results")
      ->group(kGroup);
  app.add_option("--eplb-interval", flags.engine.eplb.interval,
                 "Steps from one look at the experts' load to the next (1000)")
      ->option_text("STEPS")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->group(kGroup);
  app.add_option("--eplb-min-balancedness", flags.engine.eplb.min_balancedness,
                 "Work of the mean rank over that of the busiest below which experts move (0.8)")
      ->option_text("X")
      ->check(number_in(0, 1))
      ->group(kGroup);
}

void add_memory_flags(CLI::App& app, ServeFlags& flags) {
  add_scheduling_flags(app, flags.load, flags.engine, flags.disable_radix_cache);
  app.add_flag("--disable-overlap-schedule{false},--no-async-scheduling{false}",
               flags.engine.overlap_schedule,
               "Plan a step when the one before it is over, on a GPU too; slower, the same results")
      ->group(kSchedulingGroup);
}

void add_server_flags(CLI::App& app, ServeFlags& flags) {
  constexpr const char* kGroup = "Server";
  app.add_option("--host", flags.server.http.host, "Address to listen on (127.0.0.1)")
      ->option_text("ADDRESS")
      ->check([](const std::string& host) {  // which would be all of the machine's addresses
        return host.empty() ? "expected an address, as 127.0.0.1, or 0.0.0.0 for all" : std::string();
      })
      ->group(kGroup);
  app.add_option("--port", flags.server.http.port, "Port to listen on (30000); 0: any free one")
      ->option_text("N")
      ->check(CLI::Range(0, 65535))
      ->group(kGroup);
  app.add_option("--drain-timeout", flags.server.drain_timeout_seconds,
                 "Seconds that running requests get to finish after SIGTERM or Ctrl-C (30)")
      ->option_text("SECONDS")
      ->check(number_in(0, 86400))
      ->group(kGroup);
  app.add_option(
         "--max-answer-bytes", flags.server.max_answer_bytes,
         "Most bytes that all answers in work may take, with their logprobs; more get 503 (536870912)")
      ->option_text("N")
      ->check(CLI::Range(int64_t{1} << 20, int64_t{1} << 50))
      ->group(kGroup);
  app.add_flag("--escape-special-tokens", flags.server.escape_special_tokens,
               "Take special tokens that clients write, as <|im_end|>, for plain text")
      ->group(kGroup);
  app.add_flag("--clip-max-tokens", flags.server.clip_max_tokens,
               "Answer a request whose max_tokens exceeds the context with what is left of it, not with 400")
      ->group(kGroup);
  app.add_option("--max-stored-responses", flags.server.max_stored_responses,
                 "Most answers of /v1/responses that are kept, in memory (1024); 0: none")
      ->option_text("N")
      ->check(CLI::Range(0, 1 << 20))
      ->group(kGroup);
  app.add_option("--health-check-timeout", flags.server.health_check_timeout_seconds,
                 "Seconds in which /health_generate wants a token, else it answers 503 (20)")
      ->option_text("SECONDS")
      ->check(number_in(0.001, 86400))
      ->group(kGroup);
}

void add_observation_flags(CLI::App& app, ServeFlags& flags) {
  constexpr const char* kGroup = "Logs and metrics";
  add_log_level_flag(app, flags.log_level)->group(kGroup);
  app.add_option("--log-format", flags.log_format, "Lines of text, or one JSON object per line (text)")
      ->option_text("text|json")
      ->check(CLI::IsMember({"text", "json"}))
      ->group(kGroup);
  app.add_flag("--log-requests", flags.server.log_requests, "Log one line for each request that ends")
      ->group(kGroup);
  app.add_option("--status-interval", flags.server.status_interval_seconds,
                 "Seconds between lines that tell what is running, while something is (10); 0: none")
      ->option_text("SECONDS")
      ->check(number_in(0, 86400))
      ->group(kGroup);
  app.add_option("--metrics-compat", flags.metrics_compat,
                 "Also export metrics under these servers' names, separated by commas (none)")
      ->option_text("none|sglang|vllm")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::IsMember({"none", "sglang", "vllm"}))
      ->group(kGroup);
}

// What lets a client in.
void add_key_flags(CLI::App& app, server::HttpOptions& options, bool& isolate_keys) {
  constexpr const char* kGroup = "Server";
  app.add_option("--api-key", options.api_keys,
                 "Key that clients must present; may be given more than once. /health and /metrics stay open")
      ->option_text("KEY")
      ->envname(kKeyVariable)
      ->allow_extra_args(false)
      ->check(&check_key)
      ->group(kGroup);
  app.add_option("--admin-api-key", options.admin_api_keys,
                 "Key that administrators' doors want, such as /switch_strategy, and that opens all others; "
                 "may be given more than once")
      ->option_text("KEY")
      ->envname(kAdminKeyVariable)
      ->allow_extra_args(false)
      ->check(&check_key)
      ->group(kGroup);
  app.add_flag("--isolate-keys", isolate_keys,
               "Keep what belongs to different API keys apart: no shared prefix cache, no ending of requests")
      ->group(kGroup);
}

// What a client may send, hold and take its time with.
void add_http_flags(CLI::App& app, server::HttpOptions& options) {
  constexpr const char* kGroup = "Server";
  app.add_option("--cors-origins", options.cors_origins,
                 "Origins of web pages that may use the server, as https://example.org; *: all (none)")
      ->option_text("ORIGIN ...")
      ->delimiter(',')
      ->check([](const std::string& origin) {
        return server::is_cors_origin(origin) ? std::string()
                                              : "expected an origin, as https://example.org:8443, or *";
      })
      ->group(kGroup);
  const auto add_count = [&](const char* name, auto& value, const char* text, int64_t least, int64_t most) {
    app.add_option(name, value, text)->option_text("N")->check(CLI::Range(least, most))->group(kGroup);
  };
  add_count("--max-connections", options.max_connections, "Most connections at a time; more get 503 (8192)",
            1, 1 << 20);
  add_count("--max-body-bytes", options.max_body_bytes, "Largest request body; more gets 413 (8388608)", 1,
            1LL << 40);
  add_count("--max-header-bytes", options.max_header_bytes, "Largest request header; more gets 431 (16384)",
            256, 1 << 20);
  add_count("--max-buffered-bytes", options.max_buffered_bytes,
            "Most bytes of all requests that are being read or tokenized; more get 503 (268435456)", 1,
            1LL << 50);
  const auto add_seconds = [&](const char* name, std::chrono::milliseconds& value, const char* text,
                               double least = 0.001) {
    app.add_option_function<double>(
           name,
           [&value](double seconds) {
             value = std::chrono::milliseconds(static_cast<int64_t>(std::ceil(seconds * 1000)));
           },
           text)
        ->option_text("SECONDS")
        ->check(number_in(least, 86400))
        ->group(kGroup);
  };
  add_seconds("--header-timeout", options.header_timeout, "For a request's header, from its first byte (10)");
  add_seconds("--body-timeout", options.body_timeout,
              "For a request's body, from the end of its header (60)");
  add_seconds("--idle-timeout", options.idle_timeout, "For a connection without a request (75)");
  add_seconds("--write-timeout", options.write_timeout,
              "For a client that takes less than 1 KiB per second (30)");
  add_seconds("--sse-ping-interval", options.ping_interval,
              "After which a stream that sends nothing sends a comment (15); 0: never", 0);
}

}  // namespace

Command add_serve(CLI::App& root, const std::string& version) {
  auto flags = std::make_shared<ServeFlags>();
  flags->version = version;
  CLI::App* app = root.add_subcommand("serve", "Serve a model over HTTP: OpenAI's API and a native one");
  app->group(kServing);
  add_config_flag(*app);
  add_model_flags(*app, flags->load);
  add_chat_template_flag(*app, flags->chat_template);
  app->add_option(with_aliases("--served-model-name"), flags->model_names,
                  "Name of the model in the API, or several that requests may have; answers have the first "
                  "(the folder's name)")
      ->option_text("NAME ...")
      ->group("Model");
  add_execution_flags(*app, flags->load);
  add_parallel_flags(*app, flags->load);
  add_strategy_flag(*app, flags->strategy);
  add_strategy_policy_flag(*app, flags->strategy_policy);
  add_eplb_flags(*app, *flags);
  add_memory_flags(*app, *flags);
  add_server_flags(*app, *flags);
  add_observation_flags(*app, *flags);
  add_key_flags(*app, flags->server.http, flags->server.isolate_keys);
  add_http_flags(*app, flags->server.http);
  return {app, [flags] { return run_serve(*flags); }};
}

}  // namespace chorale::apps
