// How many ways attention and experts are split over the ranks, as one value: parsed from flags, checked
// against a model, printable and comparable. Pure arithmetic.
//
// Attention: tp_size ranks share a batch and split heads; dp_size such groups have batches of their own.
// Experts, over the same ranks: ep_size ranks own different experts, moe_tp_size ranks split each expert, and
// moe_dp_size replicas of all of that serve different tokens. Always
//     tp_size * dp_size  =  ep_size * moe_tp_size * moe_dp_size  =  world.
//
// All errors here are chorale::Error whose text names the flag, the number that was found, and what works.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "parallel/sharding_plan.h"

namespace chorale::parallel {

// Ranks of one server, at most.
inline constexpr int kMaxWorld = 1024;

struct Strategy {
  int tp_size = 1;
  int dp_size = 1;
  int ep_size = 1;
  int moe_tp_size = 1;
  int moe_dp_size = 1;

  int world() const { return tp_size * dp_size; }
  bool operator==(const Strategy&) const = default;
};

// "tp=4,dp=2,ep=8,moe_tp=1,moe_dp=1"
std::string to_string(const Strategy& strategy);

// The other way round, for --strategy. Sizes that are left out are filled in as resolve_strategy does.
Strategy parse_strategy(std::string_view text);

// The flags as they were given; what is absent was not given.
struct StrategyFlags {
  std::optional<int> tp_size;
  std::optional<int> dp_size;
  std::optional<int> ep_size;
  std::optional<int> moe_tp_size;
  std::optional<int> moe_dp_size;
  std::optional<std::string> single_expert_mode;  // "dp" or "tp", also from SINGLE_EXPERT_MODE
  bool enable_ep_moe = false;
  bool enable_dp_attention = false;
};

// Fills in what was not given:
//   tp_size, dp_size  1
//   ep_size           by --single-expert-mode: all ranks for dp, 1 for tp; else with --enable-ep-moe the
//   value
//                     of --tp-size, as in SGLang; else 1
//   moe_dp_size       what --moe-tp-size leaves, when that is given; else dp_size while ep_size <= tp_size
//   and
//                     the ranks can be shared that way, so that each data-parallel replica has its own
//                     experts; else 1
//   moe_tp_size       the rest
// With --enable-dp-attention the flags mean what they mean to SGLang: --tp-size is all ranks, attention is
// split over tp_size / dp_size of them, and moe_dp_size is 1 unless given.
//
// num_experts is the number of experts per layer of the model. Throws Error for flags that contradict each
// other or leave ranks over.
Strategy resolve_strategy(const StrategyFlags& flags, int64_t num_experts);

// Throws Error unless all sizes are at least 1, agree on the world, and the world is at most kMaxWorld.
void check_sizes(const Strategy& strategy);

// check_sizes, and: tensor-parallel ranks can own whole canonical chunks of this model's attention, dense
// layers and experts, and as many key/value heads each (or share one). An intermediate size below 1 says that
// the model has no such layers.
void check_strategy(const Strategy& strategy, const ShardedSizes& sizes);

// Every strategy of so many ranks that works for the model, each once, in ascending order of tp_size, ep_size
// and moe_tp_size. A model without experts has those that share none. Throws Error for world outside of 1 to
// kMaxWorld.
std::vector<Strategy> all_strategies(int world, const ShardedSizes& sizes);

}  // namespace chorale::parallel
