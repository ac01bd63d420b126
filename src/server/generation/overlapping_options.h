// Finds the "oneOf" that keeps a strict schema from being used: the grammar engine takes those alone whose
// options cannot overlap, and does not say which one it refuses.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "server/wire/json_body.h"

namespace chorale::server {

// The path of the innermost schema with such a "oneOf", as in SchemaFault; nullopt: none was found among the
// first ones. `overlaps` is asked about schemas that have one "oneOf" and the definitions of `schema`.
std::optional<std::string> find_overlapping_options(const Json& schema,
                                                    const std::function<bool(const Json&)>& overlaps);

}  // namespace chorale::server
