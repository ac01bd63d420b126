// Comparison of secrets.
#pragma once

#include <string_view>

namespace chorale {

// Whether the two are the same bytes, in a time that depends on their lengths alone: not on where they
// differ. Whoever wants to hide a length compares digests.
bool equal_in_constant_time(std::string_view a, std::string_view b);

}  // namespace chorale
