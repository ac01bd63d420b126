// The flags of the KV cache and the scheduler, for the commands that have an engine's requests.
#pragma once

#include <CLI/CLI.hpp>

#include "engine/engine.h"
#include "engine/load_options.h"

namespace chorale::apps {

// Their group in the help.
inline constexpr const char* kSchedulingGroup = "Memory and scheduling";

// The targets must outlive the parsing of `app`.
void add_scheduling_flags(CLI::App& app, engine::LoadOptions& load, engine::EngineOptions& engine,
                          bool& disable_radix_cache);

}  // namespace chorale::apps
