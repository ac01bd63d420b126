#include "parallel/expert_placement.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"
#include "base/math.h"
#include "parallel/strategy.h"

namespace chorale::parallel {
namespace {

constexpr int64_t kMaxTable = int64_t{1} << 28;  // slots of all layers

size_t at(int64_t i) {
  return static_cast<size_t>(i);
}

void check_size(std::string_view what, int value, int least, int most) {
  if (value < least || value > most)
    throw_error("{} is {}; it must be from {} to {}", what, value, least, most);
}

// The first expert that no slot of the layer holds, or -1.
int missing_expert(const std::vector<int>& layer, int num_experts) {
  std::vector<bool> held(at(num_experts), false);
  for (const int expert : layer) held[at(expert)] = true;
  const auto missing = std::find(held.begin(), held.end(), false);
  return missing == held.end() ? -1 : static_cast<int>(missing - held.begin());
}

// When another number of redundant experts makes maps as wide as this one, the error says which.
void check_width(const PlacementShape& shape, size_t layer, size_t width) {
  if (width == at(shape.num_slots())) return;
  const bool other_works = width % at(shape.ep_size) == 0 && width >= at(shape.num_experts);
  throw_error(
      "physical_to_logical_map has {} slots in layer {}; {} experts with --ep-num-redundant-experts {} on {} "
      "ranks have {}{}",
      width, layer, shape.num_experts, shape.num_redundant, shape.ep_size, shape.num_slots(),
      other_works
          ? fmt::format("; --ep-num-redundant-experts {} makes {}", width - at(shape.num_experts), width)
          : "");
}

void check_map(const PlacementShape& shape, const std::vector<std::vector<int>>& map) {
  if (map.size() != at(shape.num_layers))
    throw_error("physical_to_logical_map has {} layers; the model has {}", map.size(), shape.num_layers);
  for (size_t layer = 0; layer < map.size(); ++layer) {
    check_width(shape, layer, map[layer].size());
    for (const int expert : map[layer])
      if (expert < 0 || expert >= shape.num_experts)
        throw_error("physical_to_logical_map has expert {} in layer {}; the model has 0 to {}", expert, layer,
                    shape.num_experts - 1);
    const int missing = missing_expert(map[layer], shape.num_experts);
    if (missing >= 0)
      throw_error("physical_to_logical_map has no slot for expert {} in layer {}", missing, layer);
  }
}

std::vector<int32_t> flattened(const std::vector<std::vector<int>>& map) {
  std::vector<int32_t> flat;
  for (const std::vector<int>& layer : map) flat.insert(flat.end(), layer.begin(), layer.end());
  return flat;
}

// Takes the replica that has served the fewest ranks of those that `allowed` accepts, the search beginning at
// `start`, and counts it. Returns its index, or -1 when none is allowed.
template <typename Allowed>
int take_least_used(std::vector<int>& uses, size_t start, const Allowed& allowed) {
  int best = -1;
  for (size_t i = 0; i < uses.size(); ++i) {
    const size_t candidate = (start + i) % uses.size();
    if (allowed(candidate) && (best < 0 || uses[candidate] < uses[at(best)]))
      best = static_cast<int>(candidate);
  }
  if (best >= 0) ++uses[at(best)];
  return best;
}

}  // namespace

std::string_view name_of(DispatchAlgorithm algorithm) {
  switch (algorithm) {
    case DispatchAlgorithm::fixed:
      return "static";
    case DispatchAlgorithm::dynamic:
      return "dynamic";
  }
  return "?";
}

DispatchAlgorithm parse_dispatch_algorithm(std::string_view text) {
  for (const auto algorithm : {DispatchAlgorithm::fixed, DispatchAlgorithm::dynamic})
    if (text == name_of(algorithm)) return algorithm;
  throw_error("--ep-dispatch-algorithm is \"{}\"; the values that work are static, dynamic", text);
}

int PlacementShape::slots_per_rank() const {
  check_size("the model's number of layers", num_layers, 1, 1 << 20);
  check_size("the model's number of experts per layer", num_experts, 1, kMaxExperts);
  check_size("--ep-size", ep_size, 1, kMaxWorld);
  check_size("--ep-num-redundant-experts", num_redundant, 0, kMaxExperts);
  const int slots = ceil_div(num_experts + num_redundant, ep_size);
  if (int64_t{slots} * ep_size * num_layers > kMaxTable)
    throw_error(
        "--ep-num-redundant-experts is {}; with {} experts and {} layers that makes more than {} slots",
        num_redundant, num_experts, num_layers, kMaxTable);
  return slots;  // never zero, as there is at least one expert
}

ExpertPlacement::ExpertPlacement(const PlacementShape& shape, std::vector<int32_t> map)
    : shape_(shape), slots_per_rank_(shape.slots_per_rank()), map_(std::move(map)), replicas_(map_.size()) {
  first_.reserve(at(shape.num_layers) * at(shape.num_experts + 1));
  for (int layer = 0; layer < shape.num_layers; ++layer) {
    const auto experts = physical_to_logical(layer);
    std::vector<int32_t> next(at(shape.num_experts) + 1, 0);  // counting sort
    for (const int32_t expert : experts) ++next[at(expert) + 1];
    std::partial_sum(next.begin(), next.end(), next.begin());
    first_.insert(first_.end(), next.begin(), next.end());
    int32_t* sorted = replicas_.data() + at(layer) * experts.size();
    for (size_t slot = 0; slot < experts.size(); ++slot)
      sorted[next[at(experts[slot])]++] = static_cast<int32_t>(slot);
  }
}

ExpertPlacement ExpertPlacement::trivial(const PlacementShape& shape) {
  std::vector<int32_t> map(at(shape.num_slots()) * at(shape.num_layers));
  for (size_t i = 0; i < map.size(); ++i)
    map[i] = static_cast<int32_t>(i % at(shape.num_slots()) % at(shape.num_experts));
  return {shape, std::move(map)};
}

ExpertPlacement ExpertPlacement::from_map(const PlacementShape& shape,
                                          const std::vector<std::vector<int>>& map) {
  shape.slots_per_rank();
  check_map(shape, map);
  return {shape, flattened(map)};
}

ExpertPlacement ExpertPlacement::balanced(const PlacementShape& shape, const LoadRows& load,
                                          const EplbOptions& options) {
  const EplbSizes sizes{.num_replicas = shape.num_slots(),
                        .num_groups = options.num_groups,
                        .num_nodes = options.num_nodes,
                        .num_gpus = shape.ep_size};
  if (load.size() != at(shape.num_layers))
    throw_error("logical_count has {} layers; the model has {}", load.size(), shape.num_layers);
  for (size_t layer = 0; layer < load.size(); ++layer)
    if (load[layer].size() != at(shape.num_experts))
      throw_error("logical_count has {} experts in layer {}; the model has {}", load[layer].size(), layer,
                  shape.num_experts);
  const ExpertPlacement packed(shape, flattened(rebalance_experts(load, sizes, options.algorithm)));
  const bool keeps_groups = options.algorithm != EplbAlgorithm::global && options.num_nodes > 1 &&
                            fits_hierarchical(shape.num_experts, sizes);
  if (keeps_groups) return packed;
  // Packing is greedy, so it can be worse than no thought at all.
  const ExpertPlacement simple = trivial(shape);
  std::vector<int32_t> best;
  for (int layer = 0; layer < shape.num_layers; ++layer) {
    const std::span<const double> row = load[at(layer)];
    const bool keep = packed.imbalance(layer, row) <= simple.imbalance(layer, row);
    const auto experts = (keep ? packed : simple).physical_to_logical(layer);
    best.insert(best.end(), experts.begin(), experts.end());
  }
  return {shape, std::move(best)};
}

void ExpertPlacement::replace_layer(int layer, const ExpertPlacement& other, int other_layer) {
  const auto replace = [&](std::vector<int32_t>& ours, const std::vector<int32_t>& theirs) {
    const auto row = std::ssize(ours) / num_layers();
    std::copy_n(theirs.begin() + other_layer * row, row, ours.begin() + layer * row);
  };
  replace(map_, other.map_);
  replace(replicas_, other.replicas_);
  replace(first_, other.first_);
}

ExpertPlacement ExpertPlacement::with_layer(int layer, const ExpertPlacement& other) const {
  CHORALE_CHECK(shape_ == other.shape_ && layer >= 0 && layer < num_layers(), "layer {}", layer);
  ExpertPlacement result = *this;
  result.replace_layer(layer, other, layer);
  return result;
}

ExpertPlacement ExpertPlacement::with_slots(int layer, std::span<const int32_t> slots) const {
  CHORALE_CHECK(layer >= 0 && layer < num_layers() && static_cast<int>(slots.size()) == num_slots(),
                "{} slots for layer {}", slots.size(), layer);
  PlacementShape shape = shape_;
  shape.num_layers = 1;
  ExpertPlacement result = *this;
  result.replace_layer(layer, ExpertPlacement(shape, {slots.begin(), slots.end()}), 0);
  return result;
}

std::span<const int32_t> ExpertPlacement::physical_to_logical(int layer) const {
  return std::span(map_).subspan(at(layer) * at(num_slots()), at(num_slots()));
}

std::span<const int32_t> ExpertPlacement::replicas(int layer, int expert) const {
  const int32_t* first = first_.data() + at(layer) * at(shape_.num_experts + 1) + at(expert);
  return std::span(replicas_).subspan(at(layer) * at(num_slots()) + at(first[0]), at(first[1] - first[0]));
}

bool ExpertPlacement::is_local(int ep_rank) const {
  for (int layer = 0; layer < num_layers(); ++layer) {
    const auto mine =
        physical_to_logical(layer).subspan(at(ep_rank) * at(slots_per_rank_), at(slots_per_rank_));
    if (missing_expert({mine.begin(), mine.end()}, num_experts()) >= 0) return false;
  }
  return true;
}

std::vector<int32_t> ExpertPlacement::dispatch_table(int layer, int source,
                                                     std::span<const int> host_of) const {
  CHORALE_CHECK(host_of.size() == at(ep_size()) && source >= 0 && source < ep_size(),
                "{} hosts, rank {} of {}", host_of.size(), source, ep_size());
  std::vector<int32_t> table;
  std::vector<int> choice(host_of.size());  // index of the replica, per sending rank
  for (int expert = 0; expert < num_experts(); ++expert) {
    const auto slots = replicas(layer, expert);
    std::vector<int> uses(slots.size(), 0);
    std::fill(choice.begin(), choice.end(), -1);
    // Those who are bound the most choose first, so that the others can even out.
    const auto choose = [&](const auto& allowed) {
      for (int rank = 0; rank < ep_size(); ++rank) {
        if (choice[at(rank)] >= 0) continue;
        choice[at(rank)] =
            take_least_used(uses, at(expert), [&](size_t i) { return allowed(rank, rank_of(slots[i])); });
      }
    };
    choose([](int rank, int owner) { return rank == owner; });
    choose([&](int rank, int owner) { return host_of[at(rank)] == host_of[at(owner)]; });
    choose([](int, int) { return true; });
    table.push_back(slots[at(choice[at(source)])]);
  }
  return table;
}

int32_t ExpertPlacement::dynamic_slot(int layer, int expert, uint64_t token) const {
  const auto slots = replicas(layer, expert);
  // Beginning at another replica for each expert, or a token's experts would tend to be on one rank.
  return slots[(token % slots.size() + at(expert)) % slots.size()];
}

double ExpertPlacement::imbalance(int layer, std::span<const double> load) const {
  std::vector<double> of_rank(at(ep_size()), 0.0);
  const auto experts = physical_to_logical(layer);
  for (size_t slot = 0; slot < experts.size(); ++slot) {
    const int expert = experts[slot];
    const auto count = static_cast<double>(replicas(layer, expert).size());
    of_rank[slot / at(slots_per_rank_)] += load[at(expert)] / count;
  }
  const double total = std::accumulate(of_rank.begin(), of_rank.end(), 0.0);
  return total > 0 ? *std::max_element(of_rank.begin(), of_rank.end()) * ep_size() / total : 1.0;
}

std::string to_string(const ExpertPlacement& placement) {
  int local = 0;
  for (int rank = 0; rank < placement.ep_size(); ++rank) local += placement.is_local(rank) ? 1 : 0;
  return fmt::format(
      "{} layers of {} experts in {} slots: {} on each of {} ranks, {} of which have all experts",
      placement.num_layers(), placement.num_experts(), placement.num_slots(), placement.slots_per_rank(),
      placement.ep_size(), local);
}

std::string experts_of_rank(const ExpertPlacement& placement, int layer, int ep_rank) {
  const auto slots = static_cast<size_t>(placement.slots_per_rank());
  const auto mine = placement.physical_to_logical(layer).subspan(at(ep_rank) * slots, slots);
  std::vector<int32_t> experts(mine.begin(), mine.end());
  std::sort(experts.begin(), experts.end());
  experts.erase(std::unique(experts.begin(), experts.end()), experts.end());
  std::string text;
  for (size_t i = 0; i < experts.size();) {
    size_t last = i;
    while (last + 1 < experts.size() && experts[last + 1] == experts[last] + 1) ++last;
    text += fmt::format("{}{}", text.empty() ? "" : ",", experts[i]);
    if (last > i) text += fmt::format("-{}", experts[last]);
    i = last + 1;
  }
  return text;
}

}  // namespace chorale::parallel
