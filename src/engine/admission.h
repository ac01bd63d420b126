// What an engine of given options takes on: the options themselves, and requests by their lengths and number.
//
// Pure functions of their arguments; lengths are in tokens. A request's fault is a returned error.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

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

// A sequence of a request that is valid and not too long, into `sequence`, but for its arrival, submission,
// seed and time, which follow from when it is submitted. Otherwise what is wrong with the request.
std::optional<RequestError> make_sequence(Submission submission, const EngineOptions& options,
                                          int64_t vocab_size, std::unique_ptr<Sequence>& sequence);

// Whether `asked` more sequences may wait beside those that do: `invalid` when they never may, `overloaded`
// when not now.
std::optional<RequestError> check_queue(const EngineOptions& options, int64_t waiting, int64_t asked);

}  // namespace chorale::engine
