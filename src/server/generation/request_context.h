// What the reading of a request needs to know of its server.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "server/generation/response_store.h"
#include "server/generation/server_model.h"

namespace chorale::server {

// Bounds on what one request may ask for.
struct RequestLimits {
  int64_t max_sequences = 256;  // prompts times n
  int64_t max_stop_strings = 16;
  int64_t max_stop_bytes = 1024;  // in one stop string
  int64_t max_bad_words = 1024;
  int64_t max_top_logprobs = 20;
};

struct RequestContext {
  RequestLimits limits;
  ServerModel model;
  std::string model_name;                // in answers and metrics
  std::vector<std::string> model_names;  // that requests may have; the first is model_name
  int64_t vocab_size = 0;
  std::shared_ptr<ResponseStore> responses;  // not nullptr
  bool clip_max_tokens = false;  // max_tokens beyond the context is what is left of it; else a 400
};

}  // namespace chorale::server
