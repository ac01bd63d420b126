// Balanced expert placement from recorded load, after DeepSeek's EPLB (https://github.com/deepseek-ai/EPLB):
// busy experts get more replicas, and replicas are packed onto ranks so that the busiest rank has as little
// to do as possible. Both steps are greedy. Pure arithmetic, and deterministic: ties go to the lowest index.
//
// Errors are chorale::Error whose text says which number does not fit.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace chorale::parallel {

// Work per expert, for example its number of tokens: one row per layer, one column per logical expert. All
// finite and not negative.
using LoadRows = std::vector<std::vector<double>>;

// hierarchical (group-limited): the experts of one group of the router stay on one node.
// global: any replica goes anywhere.
// automatic: hierarchical when the groups divide evenly by the nodes, else global.
enum class EplbAlgorithm { automatic, hierarchical, global };
std::string_view name_of(EplbAlgorithm algorithm);

// The value of --eplb-algorithm: auto, hierarchical or global.
EplbAlgorithm parse_eplb_algorithm(std::string_view text);

// Which item is in which pack, and where in it.
struct Packing {
  std::vector<int> pack;   // per item
  std::vector<int> place;  // per item, 0 to items per pack - 1
};

// Shares the items out to num_packs packs of equally many, the heaviest first, each to the lightest pack that
// has room. The number of items divides by num_packs.
Packing balanced_packing(std::span<const double> weights, int num_packs);

// What each replica is a copy of.
struct Replication {
  std::vector<int> item_of;  // per replica; replica i < items is item i, the further ones follow
  std::vector<int> count;    // per item: its replicas, at least 1
};

// Gives each further replica to the item that has the most weight per replica. num_replicas >= items >= 1.
Replication replicate_experts(std::span<const double> weights, int num_replicas);

// The machines that replicas go to.
struct EplbSizes {
  int num_replicas = 0;  // physical experts of all ranks; at least as many as experts, divisible by num_gpus
  int num_groups = 1;    // groups of experts, as the router of some models has them; divides the experts
  int num_nodes = 1;     // divides num_gpus
  int num_gpus = 1;      // expert-parallel ranks, those of one node after the other
};

// Whether the experts' groups can be kept on nodes: what `automatic` goes by.
bool fits_hierarchical(int num_experts, const EplbSizes& sizes);

// Per layer, the logical expert of each physical slot; rank r has the slots from r * num_replicas / num_gpus
// on. A layer without any load is treated as if all its experts had the same.
std::vector<std::vector<int>> rebalance_experts(const LoadRows& weight, const EplbSizes& sizes,
                                                EplbAlgorithm algorithm = EplbAlgorithm::automatic);

}  // namespace chorale::parallel
