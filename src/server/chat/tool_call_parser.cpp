#include "server/chat/tool_call_parser.h"

#include <algorithm>
#include <utility>

namespace chorale::server {

ToolCallParser::Result ToolCallParser::push(std::string_view piece) {
  Result result;
  for (const char c : piece) push(c, result);
  return result;
}

ToolCallParser::Result ToolCallParser::finish() {
  Result result;
  if (call_ != nullptr) {
    cut_off_ = !call_->complete() && !left_out_;
    if (call_->complete()) {
      tell_call(result);
      end_call();
    } else {
      leave_call(result);
    }
  }
  if (!held_.empty()) add_content(std::exchange(held_, {}), result);
  if (!after_call_) result.content += space_;
  space_.clear();
  return result;
}

void ToolCallParser::push(char c, Result& result) {
  if (call_ == nullptr) {
    in_content(c, result);
  } else {
    in_call(c, result);
  }
}

bool ToolCallParser::is_opening(std::string_view text) const {
  return std::ranges::find(options_.format->opening_tags, text) != options_.format->opening_tags.end();
}

bool ToolCallParser::may_be_opening(std::string_view text) const {
  return std::ranges::any_of(options_.format->opening_tags,
                             [&](std::string_view tag) { return tag.starts_with(text); });
}

void ToolCallParser::in_content(char c, Result& result) {
  if (!held_.empty() || c == '<') {
    held_ += c;
    if (is_opening(held_)) return begin_call();
    if (may_be_opening(held_)) return;
    // Not a tag; only its last byte may begin another.
    held_.pop_back();
    add_content(std::exchange(held_, {}), result);
    return in_content(c, result);
  }
  if (is_tool_space(c)) {
    space_ += c;
  } else {
    add_content({&c, 1}, result);
  }
}

void ToolCallParser::add_content(std::string_view text, Result& result) {
  if (!after_call_ || has_content_) result.content += space_;
  space_.clear();
  result.content += text;
  has_content_ = true;
  after_call_ = false;
}

void ToolCallParser::begin_call() {
  call_ = options_.format->make_scanner(held_, tools_);
  told_ = false;
  has_arguments_ = false;
  left_out_ = left_out();
}

void ToolCallParser::in_call(char c, Result& result) {
  const ToolCallScanner::Step step = call_->push(c);
  if (step == ToolCallScanner::Step::refuse) {
    leave_call(result);
    return push(c, result);
  }
  held_ += c;
  tell_call(result);
  if (step == ToolCallScanner::Step::done) end_call();
}

void ToolCallParser::tell_call(Result& result) {
  has_arguments_ = has_arguments_ || call_->complete();
  if (!call_->started() || (options_.whole && !has_arguments_)) return;
  if (!told_) {
    told_ = true;
    space_.clear();
    held_.clear();
    if (!left_out_) result.calls.push_back({num_calls_++, call_->name(), ""});
  }
  std::string arguments = call_->take_arguments();
  if (arguments.empty()) return;
  held_.clear();
  if (!left_out_) add_arguments(std::move(arguments), result);
}

void ToolCallParser::add_arguments(std::string arguments, Result& result) {
  ToolCallDelta* last = result.calls.empty() ? nullptr : &result.calls.back();
  if (last != nullptr && last->index == num_calls_ - 1 && !last->name) {
    last->arguments += arguments;
  } else {
    result.calls.push_back({num_calls_ - 1, std::nullopt, std::move(arguments)});
  }
}

void ToolCallParser::end_call() {
  call_.reset();
  held_.clear();
  after_call_ = true;
}

void ToolCallParser::leave_call(Result& result) {
  const std::unique_ptr<ToolCallScanner> call = std::move(call_);
  const std::string rest = std::exchange(held_, {});
  if (told_) after_call_ = true;
  if (told_ && !left_out_ && !has_arguments_) told_broken_ = true;
  if (told_ && call->closing()) {
    // White space and the beginning of a tag, perhaps that of the next call.
    for (const char c : call->closing_text()) in_content(c, result);
    return;
  }
  size_t begin = 0;
  size_t end = rest.size();
  while (end > 0 && is_tool_space(rest[end - 1])) --end;
  while (told_ && begin < end && is_tool_space(rest[begin])) ++begin;
  space_ += rest.substr(0, begin);
  if (begin < end) add_content(std::string_view(rest).substr(begin, end - begin), result);
  space_ += rest.substr(end);
}

}  // namespace chorale::server
