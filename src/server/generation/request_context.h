// What the reading of a request needs to know of its server.
#pragma once

#include <cstdint>
#include <string>

#include "server/generation/server_model.h"

namespace chorale::server {

// Bounds on what one request may ask for.
struct RequestLimits {
  int64_t max_sequences = 256;  // prompts times n
  int64_t max_stop_strings = 16;
  int64_t max_stop_bytes = 1024;  // in one stop string
  int64_t max_top_logprobs = 20;
};

struct RequestContext {
  RequestLimits limits;
  ServerModel model;
  std::string model_name;
  int64_t vocab_size = 0;
};

}  // namespace chorale::server
