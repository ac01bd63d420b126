#include "server/chat/reasoning_parser.h"

#include <utility>

namespace chorale::server {
namespace {

bool is_space(char c) {
  return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

bool ends_with_tag(std::string_view prompt, std::string_view tag) {
  while (!prompt.empty() && is_space(prompt.back())) prompt.remove_suffix(1);
  return prompt.ends_with(tag);
}

}  // namespace

bool opens_reasoning(std::string_view prompt) {
  return ends_with_tag(prompt, kThinkOpen);
}

bool closes_reasoning(std::string_view prompt) {
  return ends_with_tag(prompt, kThinkClose);
}

ReasoningParser::Result ReasoningParser::push(std::string_view piece) {
  Result result;
  for (size_t i = 0; i < piece.size(); ++i) {
    if (state_ == State::content) {
      result.content += piece.substr(i);
      break;
    }
    push(piece[i], result);
  }
  return result;
}

ReasoningParser::Result ReasoningParser::finish() {
  Result result;
  if (state_ == State::start) begin(result);
  if (state_ == State::reasoning) result.reasoning += space_ + tag_;
  space_.clear();
  tag_.clear();
  return result;
}

void ReasoningParser::push(char c, Result& result) {
  switch (state_) {
    case State::start:
      return start(c, result);
    case State::reasoning:
      return reason(c, result);
    case State::after:
      if (c == '\n' && !options_.verbatim) return;
      state_ = State::content;
      [[fallthrough]];
    case State::content:
      result.content += c;
  }
}

void ReasoningParser::start(char c, Result& result) {
  if (tag_.empty() && is_space(c)) {
    space_ += c;
    return;
  }
  tag_ += c;
  if (!kThinkOpen.starts_with(tag_)) return begin(result);
  if (tag_ != kThinkOpen) return;
  if (options_.verbatim) result.reasoning += space_ + tag_;
  space_.clear();
  tag_.clear();
  state_ = State::reasoning;
}

void ReasoningParser::begin(Result& result) {
  const std::string text = std::exchange(space_, {}) + std::exchange(tag_, {});
  state_ = options_.opened ? State::reasoning : State::content;
  for (const char c : text) push(c, result);
}

void ReasoningParser::reason(char c, Result& result) {
  if (!tag_.empty() || c == '<') {
    tag_ += c;
    if (tag_ == kThinkClose) {
      if (options_.verbatim) result.reasoning += space_ + tag_;
      space_.clear();
      tag_.clear();
      state_ = State::after;
      return;
    }
    if (kThinkClose.starts_with(tag_)) return;
    // Not the tag; only its last byte may begin another.
    tag_.pop_back();
    result.reasoning += std::exchange(space_, {}) + std::exchange(tag_, {});
    leading_ = false;
    return reason(c, result);
  }
  if (c == '\n') {
    if (!leading_ || options_.verbatim) space_ += c;
    return;
  }
  result.reasoning += std::exchange(space_, {}) + c;
  leading_ = false;
}

}  // namespace chorale::server
