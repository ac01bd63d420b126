// What an engine of given options takes on: the options themselves, and requests by their lengths and number.
//
// Pure functions of their arguments; lengths are in tokens. A request's fault is a returned error.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "engine/engine.h"
#include "engine/sequence.h"

namespace chorale::engine {

// The options with what follows from others filled in. Throws Error for those that are out of range.
EngineOptions checked_options(EngineOptions options, const ModelRunner& runner);

// `invalid` for a prompt that leaves no room for an output, or does not fit into the KV cache.
std::optional<RequestError> check_length(const EngineOptions& options, const Sequence& sequence);

// Most tokens that the sequence may generate. The last token of a sequence is never computed, so it needs no
// room in the cache.
int64_t output_limit(const EngineOptions& options, const Sequence& sequence);

// Whether `asked` more sequences may wait beside those that do: `invalid` when they never may, `overloaded`
// when not now.
std::optional<RequestError> check_queue(const EngineOptions& options, int64_t waiting, int64_t asked);

// What a sequence's blocks of the prefix cache hang on; not to be met by another salt, whoever chooses it.
Hash128 cache_root(const std::string& salt);

}  // namespace chorale::engine
