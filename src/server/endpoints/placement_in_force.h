// Where the experts lie now, whichever strategy the server began with.
#pragma once

#include "engine/engine.h"
#include "parallel/expert_placement.h"
#include "server/generation/server_model.h"

namespace chorale::server {

// stats: the engine's. For a model with experts.
parallel::ExpertPlacement placement_in_force(const ServerModel& model, const engine::EngineStats& stats);

}  // namespace chorale::server
