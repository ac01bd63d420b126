#include "server/chat/message_parser.h"

#include <utility>

namespace chorale::server {
namespace {

void append(ToolCallParser::Result result, MessagePiece& piece) {
  piece.content += result.content;
  for (ToolCallDelta& call : result.calls) piece.calls.push_back(std::move(call));
}

}  // namespace

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
  add(reasoning_.finish(), piece);
  piece.reasoning += std::exchange(held_reasoning_, {});
  append(calls_.finish(), piece);
  return piece;
}

void MessageParser::add(ReasoningParser::Result split, MessagePiece& piece) {
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
