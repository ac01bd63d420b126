// EPLB a second time, written down as plainly as possible to compare the placement with: linear searches, and
// matrices of all layers with explicit inverse permutations. It shares no code and no structure with
// parallel/eplb.cpp.
#pragma once

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

namespace chorale::parallel::reference {

using Row = std::vector<double>;
using Indices = std::vector<int>;

// Pack and place per item.
inline std::pair<Indices, Indices> pack(const Row& weight, int packs) {
  const int n = static_cast<int>(weight.size());
  const int room = n / packs;
  Indices pack_of(weight.size()), place_of(weight.size()), order(weight.size());
  std::iota(order.begin(), order.end(), 0);
  if (room == 1) return {order, Indices(weight.size(), 0)};
  for (int i = 1; i < n; ++i)  // insertion sort, which keeps the order of equals
    for (int j = i; j > 0 && weight.at(order[j]) > weight.at(order[j - 1]); --j)
      std::swap(order[j], order[j - 1]);
  Row load(packs, 0.0);
  Indices used(packs, 0);
  for (const int item : order) {
    int best = -1;
    for (int p = 0; p < packs; ++p)
      if (used[p] < room && (best < 0 || load[p] < load[best])) best = p;
    pack_of[item] = best;
    place_of[item] = used[best];
    ++used[best];
    load[best] += weight[item];
  }
  return {pack_of, place_of};
}

// The item of each replica, and the replicas of each item.
inline std::pair<Indices, Indices> replicate(const Row& weight, int replicas) {
  const int n = static_cast<int>(weight.size());
  Indices item_of(n), count(n, 1);
  std::iota(item_of.begin(), item_of.end(), 0);
  for (int i = n; i < replicas; ++i) {
    int busiest = 0;
    for (int e = 1; e < n; ++e)
      if (weight[e] / count[e] > weight[busiest] / count[busiest]) busiest = e;
    item_of.push_back(busiest);
    ++count[busiest];
  }
  return {item_of, count};
}

inline Indices inverse(const Indices& permutation) {
  Indices result(permutation.size());
  for (size_t i = 0; i < permutation.size(); ++i) result[permutation[i]] = static_cast<int>(i);
  return result;
}

// One layer; the global policy is groups = nodes = 1.
inline Indices rebalance(const Row& weight, int replicas, int groups, int nodes, int gpus) {
  const int experts = static_cast<int>(weight.size());
  const int group_size = experts / groups;
  Row tokens_per_group(groups, 0.0);
  for (int e = 0; e < experts; ++e) tokens_per_group[e / group_size] += weight[e];
  const auto [group_pack, group_place] = pack(tokens_per_group, nodes);
  Indices log2mlog(experts);  // mlog: the experts renumbered so that those of a node follow each other
  for (int e = 0; e < experts; ++e) {
    const int g = e / group_size;
    log2mlog[e] = (group_pack[g] * (groups / nodes) + group_place[g]) * group_size + e % group_size;
  }
  const Indices mlog2log = inverse(log2mlog);
  Indices phy2log;
  for (int node = 0; node < nodes; ++node) {
    const int first = node * (experts / nodes);
    Row tokens;
    for (int i = 0; i < experts / nodes; ++i) tokens.push_back(weight[mlog2log[first + i]]);
    const auto [item_of, count] = replicate(tokens, replicas / nodes);
    Row per_replica;
    for (const int item : item_of) per_replica.push_back(tokens[item] / count[item]);
    const auto [gpu, place] = pack(per_replica, gpus / nodes);
    Indices phy2pphy;
    for (size_t r = 0; r < item_of.size(); ++r) phy2pphy.push_back(gpu[r] * (replicas / gpus) + place[r]);
    for (const int r : inverse(phy2pphy)) phy2log.push_back(mlog2log[first + item_of[r]]);
  }
  return phy2log;
}

// The busiest rank's work over the mean's, replicas sharing equally; 1 without work.
inline double max_over_mean(const Row& weight, const Indices& phy2log, int gpus) {
  Row of_gpu(gpus, 0.0);
  const size_t per_gpu = phy2log.size() / gpus;
  for (size_t p = 0; p < phy2log.size(); ++p)
    of_gpu[p / per_gpu] +=
        weight[phy2log[p]] / static_cast<double>(std::count(phy2log.begin(), phy2log.end(), phy2log[p]));
  const double total = std::accumulate(weight.begin(), weight.end(), 0.0);
  return total == 0 ? 1.0 : *std::max_element(of_gpu.begin(), of_gpu.end()) / (total / gpus);
}

}  // namespace chorale::parallel::reference
