// What the reading of a request needs to know of its server.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "server/generation/response_store.h"
#include "server/generation/server_model.h"
#include "server/generation/special_texts.h"

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
  // Whether nobody waits for the request any more, so that long work may end; empty: always somebody does.
  std::function<bool()> is_cancelled = {};
  std::string holder;  // whose request it is, where what belongs to different keys is kept apart; else empty
  std::string response_holder;  // who alone finds the responses that it stores; empty: everybody
  // Keeps special tokens in clients' texts from being control tokens; nullptr: they are.
  std::shared_ptr<const SpecialTexts> special_texts = nullptr;
  bool clip_max_tokens = false;  // max_tokens beyond the context is what is left of it; else a 400
};

}  // namespace chorale::server
