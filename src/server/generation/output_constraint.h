// What the output of a request must look like, as text for the grammar engine.
#pragma once

#include <string>

namespace chorale::server {

struct OutputConstraint {
  enum class Kind {
    json_schema,          // text: the schema
    lenient_json_schema,  // the same, where parts that cannot be enforced say nothing
    json_object,          // any JSON object; no text
    regex,
    ebnf,
    written,  // what the server wrote around schemas, in llguidance's dialect of Lark
    choice,   // text: a JSON list of strings
  };
  Kind kind = Kind::json_schema;
  std::string text;
};

// Where the output begins.
enum class ReasoningStart {
  none,     // no reasoning comes
  allowed,  // reasoning between <think> and </think> may come first
  opened,   // inside <think>: it must end first
};

}  // namespace chorale::server
