// One request to an engine of this process, from its tokens to text.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/request.h"
#include "server/generation/text_generation.h"
#include "text/tokenizer.h"

namespace chorale::apps {

struct TextAnswer {
  std::string text;
  std::vector<int32_t> output_ids;
  server::TextPiece last;  // the one with the finish reason
};

// Submits the request and waits for its end; `tell` gets each piece as it comes, on the calling thread.
// Throws Error when the engine refuses the request or fails.
TextAnswer run_request(engine::Engine& engine, const text::Tokenizer& tokenizer,
                       engine::GenerationRequest request, server::TextOptions options,
                       const std::function<void(const server::TextPiece&)>& tell);

}  // namespace chorale::apps
