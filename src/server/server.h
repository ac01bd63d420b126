// The HTTP server: OpenAI and native endpoints over one engine and one tokenizer.
//
//   GET  /                                        the page for people
//   POST /v1/chat/completions, /v1/completions   OpenAI's schemas, streamed (server-sent events) or not
//   GET  /v1/models, /v1/models/{name}
//   GET  /openapi.json                            describes all of this
//   POST /generate                                the native schema, as SGLang's
//   POST /abort_request                           {"rid": ...}: ends the request of that id
//   POST /flush_cache                             empties the prefix cache
//   POST /tokenize, /detokenize
//   GET  /get_model_info, /get_server_info
//   GET  /health                                  200, or 503 while the server drains
//   GET  /health_generate                         200 once the model has made a token, 503 if it does not
//   GET  /metrics                                 Prometheus text; the names are in server/metrics/metrics.h
//   POST /start_expert_distribution_record, /stop_..., /dump_...
//                                                 how many tokens go to each expert, as SGLang's
//
// Connections are served asynchronously by a few threads; what a client may make the server hold is bounded
// by ServerOptions. A client that goes away, or does not read its stream, has its requests aborted in the
// engine.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "io/model_config.h"
#include "parallel/expert_placement.h"
#include "text/chat_template.h"
#include "text/grammar.h"
#include "text/tokenizer.h"

namespace chorale::server {

struct ServerOptions {
  std::string host = "127.0.0.1";  // a numeric address or a name that resolves to one
  int port = 30000;                // 0: any free port; the ready line tells which
  std::string served_model_name;   // empty: the last component of the model's path
  double drain_timeout_seconds = 30;
  double health_check_timeout_seconds = 20;  // in which /health_generate wants a token
  int io_threads = 2;  // for connections, as many for JSON and tokenization; the engine has its own threads
  bool handle_signals = true;  // SIGTERM and SIGINT drain; off for servers inside another program
  bool log_requests = false;   // one line at level info for each request that ends; else at level debug
  double status_interval_seconds =
      10;  // between lines that tell what the server does, while it does; 0: none
  // Also export the metrics' names of other servers.
  bool sglang_metrics = false;
  bool vllm_metrics = false;

  // Empty: no key is needed. Else every path but /, /health and /metrics wants one of these.
  std::vector<std::string> api_keys;

  // Bounds on what clients may send or make the server hold.
  uint64_t max_body_bytes = 8U << 20;
  uint64_t max_header_bytes = 16U << 10;     // the request line included
  uint64_t max_target_bytes = 8U << 10;      // of the request line
  uint64_t max_buffered_bytes = 256U << 20;  // of all requests that are being read; beyond it they get 503
  int64_t max_connections = 8192;            // beyond it a connection gets one 503 and is closed
  size_t max_write_queue_bytes = 1U << 20;  // unread bytes of a stream before a client that stalls is cut off
  int64_t max_sequences_per_request = 256;  // prompts times n
  int64_t max_stop_strings = 16;
  int64_t max_stop_bytes = 1024;  // of one stop string
  int64_t max_top_logprobs = 20;

  std::chrono::milliseconds header_timeout{10'000};  // from a request's first byte to the end of its header
  std::chrono::milliseconds body_timeout{60'000};    // from there to the end of its body
  std::chrono::milliseconds idle_timeout{75'000};    // between two requests on one connection
  // Clients that take less than 1 KiB per second over this time, while there is more, are cut off;
  std::chrono::milliseconds write_timeout{30'000};
  // so are those with more than max_write_queue_bytes to take and less than 64 KiB per second taken.
  std::chrono::milliseconds stall_timeout{1'000};
};

// The model that is served. The references must outlive the server.
struct ServerModel {
  engine::Engine& engine;
  const text::Tokenizer& tokenizer;
  const text::ChatTemplate* chat = nullptr;   // nullptr: the checkpoint has none; chat requests get a 400
  text::GrammarCompiler* grammars = nullptr;  // nullptr: output cannot be constrained
  io::GenerationDefaults defaults;            // sampling where a request says nothing
  int64_t max_context_len = 0;                // tokens, prompt plus output
  int64_t vocab_size = 0;                     // rows of the embedding; bounds token ids. 0: the tokenizer's
  std::string model_path;
  const parallel::ExpertPlacement* placement = nullptr;  // nullptr: a model without experts
  // For information:
  std::string dtype;                  // "bfloat16" or "float32"
  std::string quantization = "none";  // of the weights
  std::string instruction_set;
  std::string version;   // Chorale's
  std::string strategy;  // "tp=1,dp=1,ep=1,moe_tp=1,moe_dp=1"
  int64_t num_layers = 0;
  int64_t num_experts = 0;
  int64_t num_experts_per_token = 0;
};

class Server {
 public:
  Server(ServerOptions options, ServerModel model);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Binds the listening socket. Throws Error that names --host or --port when it cannot. run() does it when
  // it was not done before.
  void listen();

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
