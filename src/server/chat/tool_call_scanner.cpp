#include "server/chat/tool_call_scanner.h"

namespace chorale::server {

ToolCallScanner::Step ToolCallScanner::push_closing(char c) {
  if (closing_size_ > 0 || !is_tool_space(c)) {
    if (c != closing_tag_[closing_size_]) return Step::refuse;
    ++closing_size_;
  }
  closing_text_ += c;
  return closing_size_ == closing_tag_.size() ? Step::done : Step::more;
}

}  // namespace chorale::server
