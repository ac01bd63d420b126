// Ids by which requests are known in answers and logs.
#pragma once

#include <string>
#include <string_view>

namespace chorale::server {

// The prefix and 128 random bits: unique, and nobody's to guess, since who knows a request's id may end it.
// Thread-safe.
std::string random_id(std::string_view prefix);

}  // namespace chorale::server
