// JSON from files that are not trusted: bounded in depth and number of values, without duplicate keys.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace chorale::io {

struct JsonLimits {
  size_t max_depth = 32;          // nested arrays and objects
  size_t max_values = 1'000'000;  // values of any type, containers included
};

// Parses `text`, whose outermost value must be an object. Throws Error that names `source` and where in the
// text: for syntax, invalid UTF-8, numbers out of range, duplicate keys, and anything beyond `limits`.
nlohmann::json parse_json_object(std::string_view text, std::string_view source,
                                 const JsonLimits& limits = {});

// The same for a text whose outermost value must be an array.
nlohmann::json parse_json_array(std::string_view text, std::string_view source,
                                const JsonLimits& limits = {});

// Text from a file as it may stand in a message: in double quotes, escaped to plain ASCII, cut when long.
std::string quote(std::string_view text);

// A value as "found ..." in a message: scalars as they are, arrays and objects by their size.
std::string describe(const nlohmann::json& value);

// nlohmann's account of a syntax error, without its prefix, escaped and cut.
std::string syntax_message(const nlohmann::json::exception& exception);

// Runs nlohmann's SAX parser over the whole of `text`. The handler throws Error for what it refuses.
template <typename Handler>
void run_json_parser(std::string_view text, std::string_view source, Handler& handler) {
  // nlohmann takes a NUL byte for the end of the input and would ignore what follows it.
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) {
    throw_error("{}: invalid JSON: NUL byte at byte {}", source, nul);
  }
  nlohmann::json::sax_parse(text.begin(), text.end(), &handler);
}

}  // namespace chorale::io
