// chorale serve: the HTTP server.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>

#include <CLI/CLI.hpp>

#include "apps/command.h"
#include "apps/text_model.h"
#include "base/log.h"
#include "engine/engine.h"
#include "server/server.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace chorale::apps {
namespace {

constexpr int kModelFailed = 70;

struct ServeFlags {
  engine::LoadOptions load;
  engine::EngineOptions engine;
  server::ServerOptions server;
  bool disable_radix_cache = false;
  std::string log_level = "info";
};

int run_serve(const ServeFlags& flags) {
  log::set_level(log::parse_level(flags.log_level));
  const io::ModelConfig config = io::load_model_config(flags.load.model_path);
  const text::Tokenizer tokenizer = load_tokenizer(flags.load, config);
  const std::optional<text::ChatTemplate> chat = text::ChatTemplate::load(flags.load.model_path);
  if (chat && chat->error())
    log::warn("the chat template cannot be used, chat is refused: {}", *chat->error());

  engine::LoadedModel model = engine::LoadedModel::load(flags.load);
  if (!model.is_driver()) return model.serve_steps();
  engine::EngineOptions engine_options = flags.engine;
  engine_options.max_total_tokens = model.max_total_tokens();
  engine_options.chunked_prefill_size = flags.load.chunked_prefill_size;
  engine_options.max_running_requests = flags.load.max_running_requests;
  engine_options.max_context_len = model.max_context_len();
  engine_options.enable_prefix_cache = !flags.disable_radix_cache;
  engine_options.eos_token_ids = model.eos_token_ids();
  engine::Engine engine(model.runner(), engine_options);

  server::Server server(flags.server,
                        {.engine = engine,
                         .tokenizer = tokenizer,
                         .chat = chat ? &*chat : nullptr,
                         .defaults = model.generation_defaults(),
                         .max_context_len = model.max_context_len(),
                         .vocab_size = config.vocab_size,
                         .model_path = flags.load.model_path.string(),
                         .placement = config.num_experts > 0 ? &model.parallel_plan().placement : nullptr,
                         .dtype = model.dtype_name(),
                         .instruction_set = model.instruction_set_name()});
  server.run();
  if (!engine.stats().failed) return 0;
  // What failed may still hold threads, or other processes that wait; nothing here can be taken apart in
  // order.
  log::critical("the server ends because the model has failed");
  log::flush();
  std::_Exit(kModelFailed);
}

void add_memory_flags(CLI::App& app, ServeFlags& flags) {
  constexpr const char* kGroup = "Memory and scheduling";
  app.add_option("--max-total-tokens", flags.load.max_total_tokens,
                 "Tokens that the KV cache holds; 0: sized from free memory")
      ->option_text("N")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40))
      ->group(kGroup);
  app.add_option("--mem-fraction-static", flags.load.mem_fraction,
                 "Share of the memory free after the weights that the KV cache gets (0.8)")
      ->option_text("F")
      ->check(CLI::Range(0.01, 1.0))
      ->group(kGroup);
  add_chunk_flag(app, flags.load)->group(kGroup);
  app.add_option("--max-running-requests", flags.load.max_running_requests,
                 "Most requests computed together (256)")
      ->option_text("N")
      ->check(CLI::Range(1, 65536))
      ->group(kGroup);
  app.add_option("--max-queued-requests", flags.engine.max_queued_requests,
                 "Most requests that wait; beyond it they are refused with 503 (4096)")
      ->option_text("N")
      ->check(CLI::Range(1, 1 << 20))
      ->group(kGroup);
  app.add_flag("--disable-radix-cache", flags.disable_radix_cache,
               "Do not keep the KV of finished prompts for reuse")
      ->group(kGroup);
}

void add_server_flags(CLI::App& app, ServeFlags& flags) {
  constexpr const char* kGroup = "Server";
  app.add_option("--host", flags.server.host, "Address to listen on (127.0.0.1)")
      ->option_text("ADDRESS")
      ->group(kGroup);
  app.add_option("--port", flags.server.port, "Port to listen on (30000); 0: any free one")
      ->option_text("N")
      ->check(CLI::Range(0, 65535))
      ->group(kGroup);
  app.add_option("--drain-timeout", flags.server.drain_timeout_seconds,
                 "Seconds that running requests get to finish after SIGTERM or Ctrl-C (30)")
      ->option_text("SECONDS")
      ->check(CLI::Range(0.0, 86400.0))
      ->group(kGroup);
  add_log_level_flag(app, flags.log_level)->group(kGroup);
}

// What a client may send, hold and take its time with; the keys that let it in.
void add_http_flags(CLI::App& app, server::ServerOptions& options) {
  constexpr const char* kGroup = "Server";
  app.add_option("--api-key", options.api_keys,
                 "Key that clients must present; may be given more than once. /health and /metrics stay open")
      ->option_text("KEY")
      ->envname("CHORALE_API_KEY")
      ->allow_extra_args(false)
      ->check([](const std::string& key) {
        const bool usable =
            !key.empty() && std::all_of(key.begin(), key.end(), [](char c) { return c > ' ' && c < 127; });
        return usable ? std::string() : "expected a key of printable ASCII characters without spaces";
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
            "Most bytes of all requests that are still being read; more get 503 (268435456)", 1, 1LL << 50);
  const auto add_seconds = [&](const char* name, std::chrono::milliseconds& value, const char* text) {
    app.add_option_function<double>(
           name,
           [&value](double seconds) {
             value = std::chrono::milliseconds(static_cast<int64_t>(std::ceil(seconds * 1000)));
           },
           text)
        ->option_text("SECONDS")
        ->check(CLI::Range(0.001, 86400.0))
        ->group(kGroup);
  };
  add_seconds("--header-timeout", options.header_timeout, "For a request's header, from its first byte (10)");
  add_seconds("--body-timeout", options.body_timeout,
              "For a request's body, from the end of its header (60)");
  add_seconds("--idle-timeout", options.idle_timeout, "For a connection without a request (75)");
  add_seconds("--write-timeout", options.write_timeout,
              "For a client that takes less than 1 KiB per second (30)");
}

}  // namespace

Command add_serve(CLI::App& root) {
  auto flags = std::make_shared<ServeFlags>();
  CLI::App* app = root.add_subcommand("serve", "Serve a model over HTTP: OpenAI's API and a native one");
  app->group(kServing);
  add_model_flags(*app, flags->load);
  app->add_option("--served-model-name", flags->server.served_model_name,
                  "Name of the model in the API; the folder's name when not given")
      ->option_text("NAME")
      ->group("Model");
  add_execution_flags(*app, flags->load);
  add_parallel_flags(*app, flags->load);
  add_memory_flags(*app, *flags);
  add_server_flags(*app, *flags);
  add_http_flags(*app, flags->server);
  return {app, [flags] { return run_serve(*flags); }};
}

}  // namespace chorale::apps
