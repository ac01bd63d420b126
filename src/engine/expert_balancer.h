// Moves experts to their load while requests run.
//
// The load of every logical expert is kept in a window that decays: every so many steps what was there counts
// half, and what came since then is added. Where a layer's balance is below the threshold, a new placement is
// computed on a thread of its own, and applied one layer between two steps, once the weights that it needs
// are where they are needed. No result differs by a bit, so nobody else has to know.
#pragma once

#include <chrono>
#include <cstdint>
#include <future>
#include <memory>
#include <vector>

#include "engine/expert_report.h"
#include "engine/model_runner.h"
#include "parallel/expert_placement.h"

namespace chorale::engine {

// How much less work the busiest rank must have for a layer to be moved.
inline constexpr double kLeastGain = 0.02;

// For each layer whose load `placement` does not balance to `min_balancedness` (mean over max of the ranks),
// a better placement of its experts, where there is one. load: [layers][experts]. Pure arithmetic.
struct PlacementProposal {
  parallel::ExpertPlacement placement;  // of all layers
  std::vector<int> layers;              // that differ, ascending
};
PlacementProposal propose_placement(const parallel::ExpertPlacement& placement,
                                    const parallel::LoadRows& load, double min_balancedness);

// On the engine's thread alone.
class ExpertBalancer {
 public:
  // The runner must outlive the balancer, and its experts be movable.
  // `moves`: that others have made before.
  ExpertBalancer(ModelRunner& runner, const EplbSettings& settings, const ExpertMoves& moves = {});

  // Between two steps; `stepped`: one was just done. Without work all that is to be moved is moved at once.
  // Throws what the runner throws.
  void advance(bool stepped, bool has_work);

  // Whether something is under way that advance() goes on with.
  bool is_moving() const { return proposal_.valid() || next_ < layers_.size(); }

  // Asks for a new placement now, whatever the balance and the interval. Called back by tell() when it is in
  // force, or when there is none that is better; several who ask meanwhile share one.
  void ask(RebalanceCallback callback);
  void tell();

  // Tells those who have asked that nothing comes of it. The balancer is of no use after that.
  void give_up();

  // What others see; replaced, never changed.
  std::shared_ptr<const ExpertReport> report() const { return report_; }

 private:
  void observe_load();
  void begin();
  void take_proposal();
  bool prepare_layer();
  void move_layer();
  void finish();
  void publish();

  ModelRunner& runner_;
  const EplbSettings settings_;
  parallel::ExpertPlacement placement_;  // in force
  parallel::LoadRows window_;            // [layers][experts]
  std::vector<int64_t> last_counts_;     // of runner_.expert_load()
  int64_t steps_ = 0;                    // since the load was looked at

  std::future<PlacementProposal> proposal_;  // while it is computed
  parallel::LoadRows proposal_load_;         // that it is computed from
  parallel::ExpertPlacement next_placement_;
  std::vector<int> layers_;  // that are being moved, from next_ on
  size_t next_ = 0;
  RebalanceResult current_;                // of what is under way
  std::vector<RebalanceCallback> asked_;   // for the next proposal
  std::vector<RebalanceCallback> served_;  // by the one under way, or, once that is done, to be told
  bool is_done_ = false;
  ExpertMoves moves_;  // since the start
  std::shared_ptr<const ExpertReport> report_;
};

}  // namespace chorale::engine
