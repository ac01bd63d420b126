#include "parallel/eplb.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <queue>
#include <utility>

#include "base/error.h"

namespace chorale::parallel {
namespace {

// Larger loads would lose single tokens in a double, and their sums could become infinite.
constexpr double kMaxLoad = 9007199254740992.0;  // 2^53

size_t at(int i) {
  return static_cast<size_t>(i);
}

void check_eplb_sizes(int num_experts, const EplbSizes& s) {
  if (s.num_groups < 1 || s.num_nodes < 1 || s.num_gpus < 1)
    throw_error("expert placement: {} expert groups, {} nodes and {} ranks; each must be at least 1",
                s.num_groups, s.num_nodes, s.num_gpus);
  if (num_experts < 1 || s.num_replicas < num_experts)
    throw_error(
        "expert placement: {} slots for {} experts; there must be at least one expert and a slot for each",
        s.num_replicas, num_experts);
  if (s.num_replicas % s.num_gpus != 0)
    throw_error("expert placement: {} slots do not divide by {} ranks", s.num_replicas, s.num_gpus);
}

void check_load(const LoadRows& weight) {
  for (size_t layer = 0; layer < weight.size(); ++layer) {
    if (weight[layer].size() != weight[0].size())
      throw_error("expert load: layer {} has {} experts and layer 0 has {}", layer, weight[layer].size(),
                  weight[0].size());
    for (const double load : weight[layer])
      if (!(load >= 0 && load <= kMaxLoad))
        throw_error("expert load: layer {} has a load of {}; loads must be from 0 to 2^53", layer, load);
  }
}

// Items in the order of packing.
std::vector<int> heaviest_first(std::span<const double> weights) {
  std::vector<int> order(weights.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return weights[at(a)] > weights[at(b)]; });
  return order;
}

// The experts in the order in which nodes own them: node n has the n-th of num_nodes equal parts. Whole
// groups go to a node, so that all nodes have about the same work.
std::vector<int> experts_by_node(std::span<const double> weights, int num_groups, int num_nodes) {
  const int num_experts = static_cast<int>(weights.size());
  const int group_size = num_experts / num_groups;
  std::vector<double> of_group(at(num_groups), 0.0);
  for (int e = 0; e < num_experts; ++e) of_group[at(e / group_size)] += weights[at(e)];
  const Packing packing = balanced_packing(of_group, num_nodes);
  std::vector<int> experts(at(num_experts));
  for (int g = 0; g < num_groups; ++g) {
    const int position = packing.pack[at(g)] * (num_groups / num_nodes) + packing.place[at(g)];
    for (int i = 0; i < group_size; ++i) experts[at(position * group_size + i)] = g * group_size + i;
  }
  return experts;
}

// The logical expert of each slot of one node, which owns `experts`.
void fill_node(std::span<const double> weights, std::span<const int> experts, int num_gpus,
               std::span<int> slots) {
  std::vector<double> load;
  for (const int e : experts) load.push_back(weights[at(e)]);
  const Replication replicas = replicate_experts(load, static_cast<int>(slots.size()));
  std::vector<double> of_replica;
  for (const int item : replicas.item_of) of_replica.push_back(load[at(item)] / replicas.count[at(item)]);
  const Packing packing = balanced_packing(of_replica, num_gpus);
  const int per_gpu = static_cast<int>(slots.size()) / num_gpus;
  for (size_t r = 0; r < slots.size(); ++r)
    slots[at(packing.pack[r] * per_gpu + packing.place[r])] = experts[at(replicas.item_of[r])];
}

std::vector<int> rebalance_layer(std::span<const double> recorded, const EplbSizes& sizes) {
  std::vector<double> weights(recorded.begin(), recorded.end());
  if (std::all_of(weights.begin(), weights.end(), [](double w) { return w == 0; }))
    std::fill(weights.begin(), weights.end(), 1.0);
  const std::vector<int> experts = experts_by_node(weights, sizes.num_groups, sizes.num_nodes);
  std::vector<int> slots(at(sizes.num_replicas));
  const size_t experts_per_node = experts.size() / at(sizes.num_nodes);
  const size_t slots_per_node = slots.size() / at(sizes.num_nodes);
  for (size_t node = 0; node < at(sizes.num_nodes); ++node) {
    fill_node(weights, std::span(experts).subspan(node * experts_per_node, experts_per_node),
              sizes.num_gpus / sizes.num_nodes,
              std::span(slots).subspan(node * slots_per_node, slots_per_node));
  }
  return slots;
}

}  // namespace

std::string_view name_of(EplbAlgorithm algorithm) {
  switch (algorithm) {
    case EplbAlgorithm::automatic:
      return "auto";
    case EplbAlgorithm::hierarchical:
      return "hierarchical";
    case EplbAlgorithm::global:
      return "global";
  }
  return "?";
}

EplbAlgorithm parse_eplb_algorithm(std::string_view text) {
  for (const auto algorithm : {EplbAlgorithm::automatic, EplbAlgorithm::hierarchical, EplbAlgorithm::global})
    if (text == name_of(algorithm)) return algorithm;
  throw_error("--eplb-algorithm is \"{}\"; the values that work are auto, hierarchical, global", text);
}

Packing balanced_packing(std::span<const double> weights, int num_packs) {
  const int num_items = static_cast<int>(weights.size());
  CHORALE_CHECK(num_packs >= 1 && num_items % num_packs == 0, "{} items in {} packs", num_items, num_packs);
  const int room = num_items / num_packs;
  Packing packing{.pack = std::vector<int>(weights.size()), .place = std::vector<int>(weights.size())};
  if (room == 1) {  // nothing to balance, so items stay where they are
    std::iota(packing.pack.begin(), packing.pack.end(), 0);
    return packing;
  }
  std::vector<int> filled(at(num_packs), 0);
  using LoadAndPack = std::pair<double, int>;  // those with room, the lightest on top
  std::priority_queue<LoadAndPack, std::vector<LoadAndPack>, std::greater<>> open;
  for (int p = 0; p < num_packs; ++p) open.push({0.0, p});
  for (const int item : heaviest_first(weights)) {
    const auto [load, pack] = open.top();
    open.pop();
    packing.pack[at(item)] = pack;
    packing.place[at(item)] = filled[at(pack)]++;
    if (filled[at(pack)] < room) open.push({load + weights[at(item)], pack});
  }
  return packing;
}

Replication replicate_experts(std::span<const double> weights, int num_replicas) {
  const int num_items = static_cast<int>(weights.size());
  CHORALE_CHECK(num_items >= 1 && num_replicas >= num_items, "{} replicas of {} items", num_replicas,
                num_items);
  Replication result{.item_of = std::vector<int>(at(num_items)), .count = std::vector<int>(at(num_items), 1)};
  std::iota(result.item_of.begin(), result.item_of.end(), 0);
  using LoadAndItem =
      std::pair<double, int>;  // weight per replica; the index is negative so that low ones win
  std::priority_queue<LoadAndItem> busiest;
  for (int i = 0; i < num_items; ++i) busiest.push({weights[at(i)], -i});
  while (static_cast<int>(result.item_of.size()) < num_replicas) {
    const int item = -busiest.top().second;
    busiest.pop();
    result.item_of.push_back(item);
    busiest.push({weights[at(item)] / ++result.count[at(item)], -item});
  }
  return result;
}

bool fits_hierarchical(int num_experts, const EplbSizes& s) {
  return s.num_groups >= 1 && s.num_nodes >= 1 && num_experts % s.num_groups == 0 &&
         s.num_groups % s.num_nodes == 0 && s.num_gpus % s.num_nodes == 0;
}

std::vector<std::vector<int>> rebalance_experts(const LoadRows& weight, const EplbSizes& sizes,
                                                EplbAlgorithm algorithm) {
  if (weight.empty()) return {};
  check_load(weight);
  const int num_experts = static_cast<int>(weight[0].size());
  check_eplb_sizes(num_experts, sizes);
  const bool fits = fits_hierarchical(num_experts, sizes);
  if (algorithm == EplbAlgorithm::hierarchical && !fits)
    throw_error(
        "--eplb-algorithm hierarchical needs expert groups that divide the experts, and nodes that divide "
        "both the groups and the ranks; here are {} experts in {} groups on {} nodes with {} ranks; the "
        "values that work are auto, global",
        num_experts, sizes.num_groups, sizes.num_nodes, sizes.num_gpus);
  EplbSizes used = sizes;
  if (algorithm == EplbAlgorithm::global || !fits) used.num_groups = used.num_nodes = 1;
  std::vector<std::vector<int>> placement;
  for (const std::vector<double>& layer : weight) placement.push_back(rebalance_layer(layer, used));
  return placement;
}

}  // namespace chorale::parallel
