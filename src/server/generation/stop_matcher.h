// Finds stop strings in text that arrives piece by piece, also across the borders of pieces.
//
// The match is the one whose last byte comes first; of several that end there, the longest. So the result
// depends on the text alone and not on how it was cut into pieces. Text that may be the beginning of a match
// is held back.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace chorale::server {

// Not thread-safe.
class StopMatcher {
 public:
  struct Result {
    std::string text;             // what can be told now; on a match all that stands before the stop string
    std::optional<size_t> match;  // index of the stop string that was found
  };

  // The strings must not be empty and, as the text, valid UTF-8: then no character is ever split.
  explicit StopMatcher(std::vector<std::string> stops);

  // Must not be called after a match.
  Result push(std::string_view piece);
  // What is held back when the text ends.
  std::string flush();

  const std::string& stop(size_t index) const { return patterns_[index].text; }

 private:
  struct Pattern {
    std::string text;
    std::vector<size_t> border;  // [bytes]: length of the longest proper border of text[0..i]
    size_t matched = 0;          // bytes of `text` that the text seen so far ends with
  };

  std::vector<Pattern> patterns_;
  std::string held_;
};

}  // namespace chorale::server
