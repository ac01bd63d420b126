// Ways of cutting a text into pieces, for what must not depend on them.
#pragma once

#include <cstddef>
#include <random>
#include <string>
#include <vector>

namespace chorale::server {

using Pieces = std::vector<std::string>;

inline Pieces bytes_of(const std::string& text) {
  Pieces pieces;
  for (const char c : text) pieces.emplace_back(1, c);
  return pieces;
}

// Whole, byte by byte, in two at every place, and in many at random places.
inline std::vector<Pieces> ways_to_cut(const std::string& text) {
  std::vector<Pieces> ways = {{text}, bytes_of(text)};
  for (size_t at = 0; at <= text.size(); ++at) ways.push_back({text.substr(0, at), text.substr(at)});
  std::mt19937 random(5);
  for (const size_t longest : {3U, 8U, 20U}) {
    for (int round = 0; round < 20; ++round) {
      Pieces pieces;
      for (size_t at = 0; at < text.size();) {
        pieces.push_back(text.substr(at, random() % (longest + 1)));
        at += pieces.back().size();
      }
      ways.push_back(std::move(pieces));
    }
  }
  return ways;
}

}  // namespace chorale::server
