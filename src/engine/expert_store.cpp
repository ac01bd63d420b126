#include "engine/expert_store.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "engine/background_work.h"

namespace chorale::engine {
namespace {

// Gate and up, which share a place, and down.
constexpr size_t kPlaces = 3;

model::WeightPlan plan_of(const WeightSource& source, const StoredWeights& stored, int layer,
                          int32_t expert) {
  model::WeightPlan plan = model::plan_expert(source.config, source.formats, stored.shard, layer, expert);
  CHORALE_CHECK(plan.places.size() == kPlaces, "expert {} has {} places", expert, plan.places.size());
  return plan;
}

}  // namespace

ExpertStore::ExpertStore(StoredWeights& stored, const WeightSource& source)
    : stored_(stored), source_(source) {}

ExpertStore::Home ExpertStore::home_of(int layer, int32_t expert) const {
  const auto moved = moved_.find(std::pair(layer, expert));
  if (moved != moved_.end()) return moved->second;
  const auto l = static_cast<size_t>(layer);
  const std::vector<int32_t>& experts = stored_.shard.experts[l];
  const auto at = static_cast<size_t>(std::ranges::find(experts, expert) - experts.begin());
  const model::FeedForwardWeights& weights = stored_.weights.layers[l].feed_forward;
  const std::byte* const begin = stored_.memory.device_data();
  return {&stored_.memory, static_cast<size_t>(weights.gate_up.at(at) - begin),
          static_cast<size_t>(weights.down.at(at) - begin)};
}

ExpertStore::Home ExpertStore::take_home(const Kind& kind) {
  std::vector<Home>& homes = free_[kind];
  if (homes.empty()) {
    const Buffer& memory = memory_.emplace_back(kind.second, source_.device);
    return {&memory, 0, kind.first};
  }
  const Home home = homes.back();
  homes.pop_back();
  return home;
}

void ExpertStore::give_back() {
  if (reading_.valid()) reading_.wait();
  reading_ = {};
  for (const auto& [expert, home] : fetched_) free_[fetched_kinds_.at(expert)].push_back(home);
  fetched_.clear();
  fetched_kinds_.clear();
}

void ExpertStore::fetch(int layer, std::span<const int32_t> experts) {
  give_back();
  layer_ = layer;
  wanted_.assign(experts.begin(), experts.end());
  std::ranges::sort(wanted_);
  wanted_.erase(std::unique(wanted_.begin(), wanted_.end()), wanted_.end());
  const std::vector<int32_t>& here = stored_.shard.experts[static_cast<size_t>(layer)];
  std::vector<std::pair<model::WeightPlan, const Buffer*>> plans;
  for (const int32_t expert : wanted_) {
    if (std::ranges::find(here, expert) != here.end()) continue;
    model::WeightPlan plan = plan_of(source_, stored_, layer, expert);
    const Kind kind{plan.places.back().offset, plan.bytes};
    const Home home = take_home(kind);
    for (model::WeightPlace& place : plan.places) place.offset = home.gate_up;
    plan.places.back().offset = home.down;
    fetched_.emplace(expert, home);
    fetched_kinds_.emplace(expert, kind);
    plans.emplace_back(std::move(plan), home.memory);
  }
  reading_ = in_background([source = source_, plans = std::move(plans)] {
               uint64_t bytes = 0;
               for (const auto& [plan, memory] : plans) {
                 source.read(plan, *memory, 1);
                 bytes += plan.bytes;
               }
               return bytes;
             }).share();
}

std::optional<uint64_t> ExpertStore::fetched() {
  CHORALE_CHECK(reading_.valid(), "nothing is fetched");
  if (reading_.wait_for(std::chrono::seconds(0)) != std::future_status::ready) return std::nullopt;
  return reading_.get();
}

void ExpertStore::place() {
  CHORALE_CHECK(fetched().has_value(), "experts of layer {} are not fetched", layer_);
  const auto l = static_cast<size_t>(layer_);
  std::map<int32_t, Home> homes;
  for (const int32_t expert : wanted_) {
    const auto found = fetched_.find(expert);
    homes[expert] = found != fetched_.end() ? found->second : home_of(layer_, expert);
  }
  for (const int32_t expert : stored_.shard.experts[l]) {
    if (homes.contains(expert)) continue;
    const model::WeightPlan plan = plan_of(source_, stored_, layer_, expert);
    free_[Kind(plan.places.back().offset, plan.bytes)].push_back(home_of(layer_, expert));
    moved_.erase(std::pair(layer_, expert));
  }
  model::FeedForwardWeights& weights = stored_.weights.layers[l].feed_forward;
  weights.gate_up.clear();
  weights.down.clear();
  for (const auto& [expert, home] : homes) {
    weights.gate_up.push_back(home.memory->device_data() + home.gate_up);
    weights.down.push_back(home.memory->device_data() + home.down);
  }
  for (const auto& [expert, home] : fetched_) moved_[std::pair(layer_, expert)] = home;
  stored_.shard.experts[l] = wanted_;
  fetched_.clear();
  fetched_kinds_.clear();
  reading_ = {};
}

}  // namespace chorale::engine
