// Structured output: which fields of a request ask for it, and the constraint that they put on its tokens.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/token_constraint.h"
#include "server/generation/output_constraint.h"
#include "server/generation/server_model.h"
#include "server/wire/fields.h"

namespace chorale::server {

// A schema of a request all of which must hold, and what messages call it and its field.
struct StrictSchema {
  Json schema;
  std::string name;
  std::string param;
};

// What a field asks for, and its name.
struct RequestedFormat {
  OutputConstraint constraint;
  std::string param;
  std::vector<StrictSchema> strict = {};  // that are part of it
};

// Reads "response_format" (OpenAI), "json_schema", "regex", "ebnf" (SGLang), "grammar" (llama-server),
// "guided_json", "guided_regex", "guided_grammar", "guided_choice" and "structured_outputs" (vLLM). nullopt:
// any text. Throws BadRequest when a field is malformed, or for more than one of them.
std::optional<RequestedFormat> read_output_format(Fields& fields);

// The schema of a format that is JSON; nullopt: it is another, or its schema is no JSON.
std::optional<Json> schema_of(const RequestedFormat& format);

// A format, and where in the output it begins.
struct OutputFormat {
  RequestedFormat requested;
  ReasoningStart reasoning = ReasoningStart::none;
};

// The constraint of a format whose grammar is compiled already; nullptr: it is not. Throws BadRequest where
// the model's output cannot be constrained.
engine::ConstraintFactory find_output_format(const OutputFormat& format, const ServerModel& model);

// Compiles it, which may take a second: not for a thread that other requests wait for. Throws BadRequest that
// names the field.
engine::ConstraintFactory compile_output_format(const OutputFormat& format, const ServerModel& model);

}  // namespace chorale::server
