#include "server/generation/text_generation.h"

#include <algorithm>
#include <utility>

namespace chorale::server {

using engine::FinishReason;

int64_t count_characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; });
}

TextGeneration::TextGeneration(const text::Tokenizer& tokenizer, TextOptions options)
    : detokenizer_(tokenizer, options.skip_special_tokens, std::move(options.kept_tokens)),
      matcher_(std::move(options.stop)),
      options_(std::move(options)) {}

void TextGeneration::add_text(std::string decoded, TextPiece& piece) {
  num_characters_ += count_characters(decoded);
  if (num_tokens_ <= options_.min_new_tokens) {
    piece.text += decoded;
    return;
  }
  StopMatcher::Result result = matcher_.push(decoded);
  piece.text += result.text;
  if (!result.match) return;
  piece.matched_stop_string = matcher_.stop(*result.match);
  if (options_.include_stop) piece.text += *piece.matched_stop_string;
}

TextPiece TextGeneration::consume(engine::GenerationEvent event) {
  TextPiece piece;
  if (finished_) return piece;
  piece.num_prompt_tokens = event.num_prompt_tokens;
  piece.num_cached_tokens = event.num_cached_tokens;
  piece.prompt_logprobs = std::move(event.prompt_logprobs);

  for (size_t i = 0; i < event.token_ids.size() && !piece.matched_stop_string; ++i) {
    ++num_tokens_;
    piece.token_ids.push_back(event.token_ids[i]);
    piece.text_offsets.push_back(num_characters_);
    if (i < event.logprobs.size()) piece.logprobs.push_back(std::move(event.logprobs[i]));
    const bool is_stop_token = i + 1 == event.token_ids.size() && event.matched_stop_token.has_value();
    if (!is_stop_token || options_.include_stop) add_text(detokenizer_.push(event.token_ids[i]), piece);
  }
  piece.num_completion_tokens = num_tokens_;
  // A character that the length has cut off is left out: it would have come.
  const bool is_cut = event.finish == FinishReason::length;
  if (event.finish != FinishReason::none && !is_cut && !piece.matched_stop_string)
    add_text(detokenizer_.finish(), piece);

  if (piece.matched_stop_string) {
    piece.finish = FinishReason::stop;
    piece.abort_request = event.finish == FinishReason::none;
  } else if (event.finish != FinishReason::none) {
    piece.text += matcher_.flush();
    piece.finish = event.finish;
    piece.matched_stop_token = event.matched_stop_token;
    piece.error = std::move(event.error);
  }
  finished_ = piece.finish != FinishReason::none;
  return piece;
}

}  // namespace chorale::server
