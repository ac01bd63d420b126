// From the engine's tokens to text: incremental detokenization and stop strings. One object per engine
// request; it knows nothing of HTTP, so that the command line uses it too:
//
//   TextGeneration generation(tokenizer, options);
//   // in the order of the engine's events, on any one thread at a time:
//   TextPiece piece = generation.consume(std::move(event));
//   print(piece.text);
//   if (piece.abort_request) engine.abort(id);
//   if (piece.finish != engine::FinishReason::none) done();
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "engine/request.h"
#include "server/generation/stop_matcher.h"
#include "text/incremental_detokenizer.h"
#include "text/tokenizer.h"

namespace chorale::server {

struct TextOptions {
  std::vector<std::string> stop;  // stop strings; not empty, valid UTF-8
  bool include_stop = false;      // keep the stop string, or the text of the stop token, in the output
  bool skip_special_tokens = true;
  std::vector<int32_t> kept_tokens;  // special tokens that are not skipped
  int64_t min_new_tokens = 0;        // stop strings are not looked for in the text of the first tokens
};

// What one engine event adds. The pieces' texts concatenated are the answer, whatever the events were.
struct TextPiece {
  std::string text;                             // valid UTF-8; ends before a stop string
  std::vector<int32_t> token_ids;               // up to and including the one that completed a stop string
  std::vector<engine::TokenLogprobs> logprobs;  // one per token when asked for
  std::vector<int64_t> text_offsets;            // per token: characters of generated text before it
  std::vector<engine::TokenLogprobs> prompt_logprobs;  // as in the engine's event
  engine::FinishReason finish = engine::FinishReason::none;
  std::optional<int32_t> matched_stop_token;
  std::optional<std::string> matched_stop_string;
  std::optional<RequestError> error;  // when finish is `error`
  bool abort_request = false;         // the text has ended but the engine's request goes on: abort it
  int64_t num_prompt_tokens = 0;
  int64_t num_completion_tokens = 0;  // so far, the one that completed a stop string included
  int64_t num_cached_tokens = 0;
};

// Not thread-safe.
class TextGeneration {
 public:
  // The tokenizer must outlive this object.
  TextGeneration(const text::Tokenizer& tokenizer, TextOptions options);

  // Events that come after the text has ended give an empty piece without a finish reason.
  TextPiece consume(engine::GenerationEvent event);
  bool finished() const { return finished_; }

 private:
  // Decoded text goes through the stop strings into the piece.
  void add_text(std::string decoded, TextPiece& piece);

  text::IncrementalDetokenizer detokenizer_;
  StopMatcher matcher_;
  TextOptions options_;
  int64_t num_tokens_ = 0;
  int64_t num_characters_ = 0;  // decoded so far
  bool finished_ = false;
};

// Unicode code points of valid UTF-8.
int64_t count_characters(std::string_view text);

}  // namespace chorale::server
