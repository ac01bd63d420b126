// Sends requests when they arrive, holds them to a number at a time, and records what comes back.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "tools/bench_serve/http_client.h"
#include "tools/bench_serve/requests.h"
#include "tools/bench_serve/stream_answer.h"

namespace chorale::bench_serve {

// How the requests are put.
struct RequestForm {
  Endpoint endpoint = Endpoint::completions;
  std::string model;
  bool ignore_eos = true;                           // asks for exactly as many tokens as the request says
  nlohmann::json extra = nlohmann::json::object();  // members that are added to each, or replace its own
};

// The body of one request: streamed, greedy, with usage asked for.
std::string request_body(const Request& request, const RequestForm& form);

struct LoadOptions {
  RequestForm form;
  std::vector<double> arrivals;            // [requests], seconds from the start, ascending
  std::optional<int64_t> max_concurrency;  // requests beyond it wait here
  bool keep_text = false;                  // see StreamAnswer
  std::function<void()> on_finished;       // after each request
};

struct LoadResult {
  std::vector<RequestRecord> records;  // in the order of the requests
  double duration = 0;                 // seconds, from the first request to the last one's end
  int64_t peak_concurrency = 0;
};

// Runs the client until every request has ended. A request that waits for its turn has not begun: its times
// count from when it is sent.
LoadResult run_load(HttpClient& client, std::span<const Request> requests, const LoadOptions& options);

}  // namespace chorale::bench_serve
