// Values that a model writes as they are, without JSON's quotes: what a schema allows for them, as parts of a
// grammar in llguidance's dialect of Lark.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/wire/json_body.h"

namespace chorale::server {

struct RawValues {
  bool any_text = false;           // the schema allows any string, or more than is told here
  std::vector<std::string> texts;  // literals and regular expressions of the strings
  std::vector<Json> json;          // schemas of all else, which is written as JSON
};

// `schema` stands in `root`; both as ready_schema() makes them. "enum", "const", "pattern", "format",
// "minLength" and "maxLength" hold for strings.
RawValues raw_values(const Json& schema, const Json& root);

// The expression that a whole text matches where the pattern, with anchors, is found in it: between slashes,
// as Lark has it. nullopt: one with anchors inside.
std::optional<std::string> whole_text_pattern(std::string_view pattern);

}  // namespace chorale::server
