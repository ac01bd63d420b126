// Which experts the tokens go to: recording on request, as SGLang's endpoints do, and how evenly the work
// falls.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "parallel/expert_placement.h"
#include "server/wire/json_body.h"

namespace chorale::server {

// How evenly a layer's load falls: the largest over the mean; 1 is perfectly even, and the answer when there
// is none.
struct LayerBalance {
  double experts = 1;  // over the logical experts
  double ranks = 1;    // over the expert-parallel ranks, where replicas share their expert's load
};

// Counts are [layers * experts] since the start of the engine. Thread-safe.
class ExpertDistribution {
 public:
  // Null for a model without experts; must outlive this object.
  explicit ExpertDistribution(const parallel::ExpertPlacement* placement) : placement_(placement) {}

  bool has_experts() const { return placement_ != nullptr; }

  // Tokens are recorded from these counts on; what was recorded before is dropped.
  void start(std::vector<int64_t> counts);
  // Recording ends with these counts.
  void stop(std::vector<int64_t> counts);
  // {"recording": bool, "logical_count": [layers][experts], "balancedness": [layers]}, the second in the form
  // that --init-expert-location reads. nullopt when nothing was ever recorded.
  std::optional<Json> dump(std::span<const int64_t> counts) const;

  // By layer, over all tokens since the start, with the experts where they lie now; null: where they lay at
  // first.
  std::vector<LayerBalance> balance(std::span<const int64_t> counts,
                                    const parallel::ExpertPlacement* now = nullptr) const;

 private:
  const parallel::ExpertPlacement* placement_;
  mutable std::mutex mutex_;
  std::optional<std::vector<int64_t>> begin_;
  std::optional<std::vector<int64_t>> end_;
};

}  // namespace chorale::server
