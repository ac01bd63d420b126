// What a client that asks for a path which is not there may have meant.
#pragma once

#include <string>
#include <string_view>

namespace chorale::server {

// "; did you mean /v1/chat/completions?", or empty.
std::string path_hint(std::string_view path);

}  // namespace chorale::server
