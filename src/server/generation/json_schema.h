// JSON schemas of clients, made ready for the grammar engine, which enforces a part of JSON Schema only.
#pragma once

#include <string>
#include <vector>

#include "server/wire/json_body.h"

namespace chorale::server {

// A part of a schema that cannot be enforced.
struct SchemaFault {
  std::string path;  // of the schema that has it: "properties.tags.items"; empty: the schema itself
  std::string keyword;
  std::string why;  // may be empty
};

struct ReadySchema {
  Json schema;
  std::vector<SchemaFault> left_out;
};

enum class SchemaForm {
  exact,      // what is malformed stays, for the engine to refuse
  forgiving,  // what is malformed is left out
};

// The schema without what says nothing (descriptions, titles, examples, defaults, unknown keywords, members
// that are null) and without what cannot be enforced, which is listed. An object that has "properties" and
// says nothing of others is closed: it has no others. Left open are objects that are put together from
// several schemas: in "allOf", and beside "$ref", "anyOf" or "oneOf". Never throws; the schema is no more
// than JsonBodyLimits deep.
ReadySchema ready_schema(const Json& schema, SchemaForm form);

// What "$ref" stands for, "#" or "#/$defs/name"; nullptr where it is not there or elsewhere.
const Json* resolve_reference(const Json& reference, const Json& root);

// Where a strict schema, called `name`, has parts that cannot be enforced: a BadRequest about `param` that
// names the first. Else the log tells of each keyword once.
void tell_left_out(const std::vector<SchemaFault>& left_out, bool strict, const std::string& name,
                   const std::string& param);

}  // namespace chorale::server
