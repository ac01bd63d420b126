#include "server/generation/stop_matcher.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace chorale::server {
namespace {

// Knuth, Morris, Pratt: the failure function of the pattern.
std::vector<size_t> borders(std::string_view text) {
  std::vector<size_t> border(text.size(), 0);
  for (size_t i = 1, k = 0; i < text.size(); ++i) {
    while (k > 0 && text[i] != text[k]) k = border[k - 1];
    if (text[i] == text[k]) ++k;
    border[i] = k;
  }
  return border;
}

}  // namespace

StopMatcher::StopMatcher(std::vector<std::string> stops) {
  for (std::string& stop : stops) {
    CHORALE_CHECK(!stop.empty(), "empty stop string");
    std::vector<size_t> border = borders(stop);
    patterns_.push_back({std::move(stop), std::move(border)});
  }
}

StopMatcher::Result StopMatcher::push(std::string_view piece) {
  if (patterns_.empty()) return {std::string(piece), std::nullopt};
  held_ += piece;
  for (size_t i = held_.size() - piece.size(); i < held_.size(); ++i) {
    std::optional<size_t> match;
    for (size_t p = 0; p < patterns_.size(); ++p) {
      Pattern& pattern = patterns_[p];
      while (pattern.matched > 0 && pattern.text[pattern.matched] != held_[i]) {
        pattern.matched = pattern.border[pattern.matched - 1];
      }
      if (pattern.text[pattern.matched] == held_[i]) ++pattern.matched;
      if (pattern.matched < pattern.text.size()) continue;
      if (!match || pattern.text.size() > patterns_[*match].text.size()) match = p;
      pattern.matched = pattern.border.back();
    }
    if (match) return {held_.substr(0, i + 1 - patterns_[*match].text.size()), match};
  }
  size_t keep = 0;
  for (const Pattern& pattern : patterns_) keep = std::max(keep, pattern.matched);
  Result result{held_.substr(0, held_.size() - keep), std::nullopt};
  held_.erase(0, held_.size() - keep);
  return result;
}

std::string StopMatcher::flush() {
  return std::exchange(held_, {});
}

}  // namespace chorale::server
