#include "server/metrics/expert_distribution.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace chorale::server {
namespace {

LayerBalance balance_of(const parallel::ExpertPlacement& placement, int layer,
                        std::span<const int64_t> load) {
  const std::vector<double> work(load.begin(), load.end());
  const double sum = std::accumulate(work.begin(), work.end(), 0.0);
  if (sum <= 0) return {};
  const double mean = sum / static_cast<double>(work.size());
  return {.experts = *std::max_element(work.begin(), work.end()) / mean,
          .ranks = placement.imbalance(layer, work)};
}

}  // namespace

void ExpertDistribution::start(std::vector<int64_t> counts) {
  const std::lock_guard lock(mutex_);
  begin_ = std::move(counts);
  end_.reset();
}

void ExpertDistribution::stop(std::vector<int64_t> counts) {
  const std::lock_guard lock(mutex_);
  if (begin_ && !end_) end_ = std::move(counts);
}

std::optional<Json> ExpertDistribution::dump(std::span<const int64_t> counts) const {
  const std::lock_guard lock(mutex_);
  if (!begin_ || placement_ == nullptr) return std::nullopt;
  const std::span<const int64_t> last = end_ ? std::span<const int64_t>(*end_) : counts;
  const auto experts = static_cast<size_t>(placement_->num_experts());
  Json layers = Json::array();
  Json balancedness = Json::array();
  for (size_t first = 0; first + experts <= std::min(last.size(), begin_->size()); first += experts) {
    std::vector<int64_t> load(experts);
    for (size_t e = 0; e < experts; ++e) load[e] = last[first + e] - (*begin_)[first + e];
    balancedness.push_back(balance_of(*placement_, static_cast<int>(first / experts), load).ranks);
    layers.push_back(std::move(load));
  }
  return Json{
      {"recording", !end_}, {"logical_count", std::move(layers)}, {"balancedness", std::move(balancedness)}};
}

std::vector<LayerBalance> ExpertDistribution::balance(std::span<const int64_t> counts,
                                                      const parallel::ExpertPlacement* now) const {
  std::vector<LayerBalance> layers;
  if (placement_ == nullptr) return layers;
  const auto experts = static_cast<size_t>(placement_->num_experts());
  for (size_t first = 0; first + experts <= counts.size(); first += experts) {
    layers.push_back(balance_of(now != nullptr ? *now : *placement_, static_cast<int>(first / experts),
                                counts.subspan(first, experts)));
  }
  return layers;
}

}  // namespace chorale::server
