// The HTTP server: OpenAI and native endpoints over one engine and one tokenizer. The endpoints are listed
// in server/routes.cpp, and described in server/endpoints/openapi.json, which the server gives as
// /openapi.json.
//
// Connections are served asynchronously by a few threads; what a client may make the server hold is bounded
// by ServerOptions. A client that goes away, or does not read its stream, has its requests aborted in the
// engine.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "server/generation/request_context.h"
#include "server/generation/server_model.h"
#include "server/http/options.h"

namespace chorale::engine {
class StrategyController;
}

namespace chorale::server {

struct ServerOptions {
  HttpOptions http;  // its io_threads also tells how many threads read JSON and tokenize
  RequestLimits limits;
  uint64_t max_answer_bytes = 512U << 20;      // of all answers that are being made
  int64_t max_waiting_requests = 4096;         // whose bodies are read whole and not yet looked at
  std::string served_model_name;               // in answers and metrics; empty: that of the model's folder
  std::vector<std::string> other_model_names;  // that requests may have, too
  bool escape_special_tokens = false;          // see RequestContext::special_texts
  bool isolate_keys = false;           // the prefix cache, and ids, of different API keys are kept apart
  bool clip_max_tokens = false;        // see RequestContext
  size_t max_stored_responses = 1024;  // of /v1/responses, in memory; 0: none
  double drain_timeout_seconds = 30;
  double health_check_timeout_seconds = 20;  // in which /health_generate wants a token
  bool handle_signals = true;  // SIGTERM and SIGINT drain; off for servers inside another program
  bool log_requests = false;   // one line at level info for each request that ends; else at level debug
  double status_interval_seconds =
      10;  // between lines that tell what the server does, while it does; 0: none
  // Also export the metrics' names of other servers.
  bool sglang_metrics = false;
  bool vllm_metrics = false;
};

class Server {
 public:
  // A model is needed before run(): given here, or by set_model() later. Until then every request gets 503.
  explicit Server(ServerOptions options);
  Server(ServerOptions options, ServerModel model);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Once. controller: whose decisions /metrics tells, where there is one; must outlive the server.
  void set_model(ServerModel model, const engine::StrategyController* controller = nullptr);

  // Binds the listening socket. Throws Error that names --host or --port when it cannot. run() does it when
  // it was not done before.
  void listen();

  // Begins to answer, on threads of its own, while this one loads the model. After listen().
  void begin();

  // "http://127.0.0.1:30000"; after listen().
  std::string url() const;

  // Logs the ready line, "Chorale is ready: URL (Ctrl-C stops)", serves until SIGTERM, SIGINT or stop(),
  // drains and returns: from then on /health and new requests get 503, running ones finish within
  // drain_timeout_seconds, and what is left is aborted. While it drains a second signal has its default
  // effect: it ends the process at once. No listener of this server is left in the engine when it returns.
  // Throws Error when it cannot bind. Returns as well when the engine has failed, once the clients have been
  // told; the caller ends the process then.
  void run();

  // Begins to drain, as a signal does. Thread-safe; may be called more than once.
  void stop();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace chorale::server
