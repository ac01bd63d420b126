// What /metrics tells, in the Prometheus text format. docs/metrics.md lists every metric.
//
// A request is one sequence of the engine: an HTTP request with n = 3 is three of them. The numbers agree
// with what clients see, to the token:
//
//   time_to_first_token's count        requests that got a token
//   inter_token_latency's count        generation_tokens_total less those
//   request_finished_total             every request once, when it ends; e2e_request_latency's count is the
//   sum
//                                      over stop, length and tool_calls
//
// A request that was refused is in none of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "engine/engine.h"
#include "server/metrics/expert_distribution.h"

namespace chorale::server {

struct MetricsOptions {
  std::string model_name;                         // a label of every metric
  std::map<std::string, std::string> build_info;  // labels of chorale_build_info
  std::map<std::string, std::string> model_info;  // and of chorale_model_info, beside model_name
  // The label of that name, asked for with every snapshot; empty: none.
  std::function<std::string()> strategy = nullptr;
  // Bytes of a device, asked for with every snapshot; may throw Error. Empty for the CPU.
  std::function<uint64_t()> free_device_memory = nullptr;
  // Also export names of other servers, with the same values, so that their dashboards show something.
  bool sglang_names = false;
  bool vllm_names = false;
};

// A request that came to an end by itself. Seconds are from the arrival of its HTTP request.
struct FinishedRequest {
  double seconds = 0;
  int64_t prompt_tokens = 0;
  int64_t generated_tokens = 0;  // as the client is told
  double prefill_seconds = 0;    // from its first step to its first token, when it has tokens
  double decode_seconds = 0;     // from there to the end
};

// Thread-safe.
class Metrics {
 public:
  explicit Metrics(MetricsOptions options);
  ~Metrics();

  // A request's first token, `seconds` after its arrival, or a later one, `seconds` after the one before.
  void observe_first_token(double seconds);
  void observe_next_token(double seconds);
  // Every request ends once. Stop strings end a request in this layer, which is why the count is made here
  // and not by the engine.
  void observe_finished(const char* reason, const FinishedRequest& request);  // stop, length, tool_calls
  void count_unfinished(const char* reason);                                  // abort, error
  // An HTTP answer whose status line was sent.
  void count_response(int status);

  // balance: by layer, as of the last time that was asked for. generation_rate: tokens per second, lately.
  std::string serialize(const engine::EngineStats& stats, std::span<const LayerBalance> balance = {},
                        double generation_rate = 0) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace chorale::server
