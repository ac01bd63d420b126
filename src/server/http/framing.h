// How an answer's parts stand on the wire.
#pragma once

#include <chrono>
#include <string>
#include <string_view>

namespace chorale::server {

// The standard reason phrase.
std::string_view reason_phrase(int status);

// As in Date: "Sun, 06 Nov 1994 08:49:37 GMT".
std::string http_date(std::chrono::system_clock::time_point time);

// The status line and the lines that all answers have.
std::string response_head(int status, std::string_view request_id);

// The last line of a head, with the empty one that ends it.
std::string_view connection_line(bool keep_alive);

// One server-sent event as it stands on the wire; with an empty name it has none.
std::string sse_frame(std::string_view payload, std::string_view name);

// A comment, which clients of server-sent events pass over.
std::string_view sse_ping();

}  // namespace chorale::server
