#include "server/endpoints/placement_in_force.h"

#include "parallel/strategy.h"

namespace chorale::server {

parallel::ExpertPlacement placement_in_force(const ServerModel& model, const engine::EngineStats& stats) {
  if (stats.experts != nullptr) return stats.experts->placement;
  if (stats.switches == 0) return *model.placement;
  // A change of the strategy places them anew; where they cannot move, they stay there.
  parallel::PlacementShape shape = model.placement->shape();
  shape.ep_size = parallel::parse_strategy(model.current_strategy()).ep_size;
  return parallel::ExpertPlacement::trivial(shape);
}

}  // namespace chorale::server
