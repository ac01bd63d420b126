// How an answer's parts stand on the wire.
#pragma once

#include <string>
#include <string_view>

namespace chorale::server {

// The standard reason phrase.
std::string_view reason_phrase(int status);

// One server-sent event as it stands on the wire.
std::string sse_frame(std::string_view payload);

}  // namespace chorale::server
