// JSON in request bodies and answers. Objects keep the order of their keys, as chat templates see it.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "server/http/request.h"

namespace chorale::server {

using Json = nlohmann::ordered_json;

struct JsonBodyLimits {
  size_t max_depth = 64;          // nested arrays and objects
  size_t max_values = 4'000'000;  // whatever their type, containers included
};

// Parses a request's body, which must be one JSON object. Throws BadRequest for syntax, invalid UTF-8,
// numbers out of range, duplicate keys and anything beyond the limits.
Json parse_json_body(std::string_view text, const JsonBodyLimits& limits = {});

// The same of a request, which must say that its body is JSON, if anything.
Json parse_json_body(const HttpRequest& request);

// Adds a member that the object does not have yet: without the search, which would look through all of them.
void append_member(Json& object, std::string name, Json value);

// The JSON text; bytes that are not UTF-8 become U+FFFD, so that it never throws.
std::string to_text(const Json& value);

// What a value is, for messages: "a string", "an array", "null", numbers and booleans as they are.
std::string describe(const Json& value);

// A client's text as it may stand in a message: in single quotes, control characters escaped, cut when long.
std::string quote(std::string_view text);

// `text` cut to at most max_bytes without splitting a UTF-8 character, "..." where something is missing.
std::string cut_text(std::string_view text, size_t max_bytes);

}  // namespace chorale::server
