#include "apps/suggest.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace chorale::apps {
namespace {

constexpr size_t kMaxLength = 64;  // no name is longer, and the distance takes quadratic time

}  // namespace

size_t edit_distance(std::string_view a, std::string_view b) {
  // Three rows of the dynamic programme: distances of b's prefixes to a[0, i - 1), a[0, i) and a[0, i + 1).
  std::vector<size_t> before(b.size() + 1);
  std::vector<size_t> row(b.size() + 1);
  std::vector<size_t> next(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 0; i < a.size(); ++i) {
    next[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      next[j + 1] = std::min({row[j + 1] + 1, next[j] + 1, row[j] + (a[i] == b[j] ? 0U : 1U)});
      if (i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j])
        next[j + 1] = std::min(next[j + 1], before[j - 1] + 1);
    }
    std::swap(before, row);
    std::swap(row, next);
  }
  return row[b.size()];
}

std::optional<std::string> nearest(std::string_view text, std::span<const std::string> candidates) {
  if (text.size() > kMaxLength) return std::nullopt;
  std::optional<std::string> best;
  size_t best_distance = 0;
  for (const std::string& candidate : candidates) {
    const bool extends = text.size() >= 4 && candidate.starts_with(text);
    const size_t distance = extends ? 1 : edit_distance(text, candidate);
    if (!extends && distance > std::max(text.size(), candidate.size()) / 3) continue;
    if (!best || distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

}  // namespace chorale::apps
