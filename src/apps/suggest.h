// "Did you mean": the nearest of some names.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace chorale::apps {

// Insertions, deletions, substitutions and swaps of neighbours that turn one text into the other (restricted
// Damerau-Levenshtein distance), over bytes.
size_t edit_distance(std::string_view a, std::string_view b);

// The first candidate with the smallest distance, or nullopt when none is near: at a distance of at most a
// third of the longer length, or beginning with all of a text of four bytes or more (counted as a distance of
// 1).
std::optional<std::string> nearest(std::string_view text, std::span<const std::string> candidates);

}  // namespace chorale::apps
