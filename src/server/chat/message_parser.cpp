#include "server/chat/message_parser.h"

#include <algorithm>
#include <utility>

namespace chorale::server {
namespace {

void append(ToolCallParser::Result result, MessagePiece& piece) {
  piece.content += result.content;
  for (ToolCallDelta& call : result.calls) piece.calls.push_back(std::move(call));
}

}  // namespace

std::vector<int32_t> tag_tokens(const text::Tokenizer& tokenizer, const MessageOptions& options) {
  std::vector<int32_t> tokens;
  const auto add = [&](std::string_view tag) {
    if (const auto token = tokenizer.token_to_id(tag)) tokens.push_back(*token);
  };
  for (const std::string_view tag : {kThinkOpen, kThinkClose}) add(tag);
  if (options.parse_calls) std::ranges::for_each(options.calls.format->all_tags, add);
  return tokens;
}

MessageParser::MessageParser(std::shared_ptr<const MessageOptions> options)
    : options_(std::move(options)),
      reasoning_({.opened = options_->reasoning_opened,
                  .verbatim = !options_->separate_reasoning && options_->include_reasoning}),
      calls_(options_->tools, options_->calls) {}

MessagePiece MessageParser::push(std::string_view text) {
  MessagePiece piece;
  add(reasoning_.push(text), piece);
  return piece;
}

MessagePiece MessageParser::finish() {
  MessagePiece piece;
  const bool is_open = reasoning_.is_reasoning();
  add(reasoning_.finish(), piece);
  piece.reasoning += std::exchange(held_reasoning_, {});
  if (is_open) add_calls_of_reasoning(piece);
  append(calls_.finish(), piece);
  return piece;
}

void MessageParser::add_calls_of_reasoning(MessagePiece& piece) {
  ToolCallParser::Options options = options_->calls;
  options.whole = true;
  const std::string_view text = all_reasoning_;
  const auto next_call = [&](size_t from) {
    size_t next = std::string_view::npos;
    for (const std::string_view tag : options.format->opening_tags)
      next = std::min(next, text.find(tag, from));
    return next;
  };
  for (size_t at = next_call(0); at != std::string_view::npos; at = next_call(at + 1)) {
    ToolCallParser parser(options_->tools, options);
    ToolCallParser::Result result = parser.push(text.substr(at));
    ToolCallParser::Result rest = parser.finish();
    if (result.calls.empty() || !(result.content + rest.content).empty()) continue;
    num_calls_of_reasoning_ = parser.num_calls();
    return append(std::move(result), piece);
  }
}

void MessageParser::add(ReasoningParser::Result split, MessagePiece& piece) {
  if (options_->parse_calls) all_reasoning_ += split.reasoning;
  if (!options_->include_reasoning) {
    // Nobody sees it.
  } else if (!options_->separate_reasoning) {
    piece.content += split.reasoning;
  } else if (options_->stream_reasoning) {
    piece.reasoning += split.reasoning;
  } else {
    held_reasoning_ += split.reasoning;
    if (!reasoning_.may_reason()) piece.reasoning += std::exchange(held_reasoning_, {});
  }
  if (!options_->parse_calls) {
    piece.content += split.content;
  } else {
    append(calls_.push(split.content), piece);
  }
}

}  // namespace chorale::server
