// Where experts live: for each layer, the logical expert that each physical slot holds, and from that where a
// token that needs a logical expert is sent. An immutable value, pure arithmetic, the same on every rank.
//
// Slots are numbered over the expert-parallel ranks of one replica of the experts: rank r of ep_size has the
// slots [r * slots_per_rank, (r + 1) * slots_per_rank). Every rank has the same number of slots, at least
// one, and every logical expert has a slot, whatever the number of experts and ranks.
//
// Errors are chorale::Error whose text names the flag or field, the number found, and what works.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "parallel/eplb.h"

namespace chorale::parallel {

inline constexpr int kMaxExperts = 65536;  // per layer, and as many redundant ones

// --ep-dispatch-algorithm: which replica of an expert gets a token. fixed ("static"): for each sending rank
// always the same one. dynamic: all of them in turn.
enum class DispatchAlgorithm { fixed, dynamic };
std::string_view name_of(DispatchAlgorithm algorithm);
DispatchAlgorithm parse_dispatch_algorithm(std::string_view text);

struct PlacementShape {
  int num_layers = 0;
  int num_experts = 0;  // logical experts per layer
  int ep_size = 1;
  int num_redundant = 0;  // --ep-num-redundant-experts: slots beyond one per expert, before rounding up

  // max(1, ceil((num_experts + num_redundant) / ep_size)). Throws Error when a number of the shape is out of
  // range.
  int slots_per_rank() const;
  int num_slots() const { return slots_per_rank() * ep_size; }
  bool operator==(const PlacementShape&) const = default;
};

// How load becomes a placement.
struct EplbOptions {
  EplbAlgorithm algorithm = EplbAlgorithm::automatic;
  int num_groups = 1;  // groups of experts, as the model's router has them
  int num_nodes =
      1;  // hosts, each with equally many of the expert-parallel ranks, one host's after the other's
};

class ExpertPlacement {
 public:
  // Slot p holds expert p % num_experts: spare slots go round-robin.
  static ExpertPlacement trivial(const PlacementShape& shape);
  // map: [num_layers][num_slots], each expert at least once per layer.
  static ExpertPlacement from_map(const PlacementShape& shape, const std::vector<std::vector<int>>& map);
  // By rebalance_experts. Where that has no groups to keep together, a layer that trivial placement would
  // balance better has that. load: [num_layers][num_experts].
  static ExpertPlacement balanced(const PlacementShape& shape, const LoadRows& load,
                                  const EplbOptions& options = {});
  // An object with `physical_to_logical_map` as from_map takes it, or `logical_count` as balanced takes it;
  // other fields are ignored. `source` is what errors call the text, for example --init-expert-location and a
  // path.
  static ExpertPlacement from_json(std::string_view text, std::string_view source,
                                   const PlacementShape& shape, const EplbOptions& options = {});

  // This, with one layer as `other`, of the same shape, has it.
  ExpertPlacement with_layer(int layer, const ExpertPlacement& other) const;
  // This, with other experts in the slots of one layer: [num_slots], each expert at least once.
  ExpertPlacement with_slots(int layer, std::span<const int32_t> slots) const;

  // {"physical_to_logical_map": [...]}, a line per layer.
  std::string to_json() const;

  const PlacementShape& shape() const { return shape_; }
  int num_layers() const { return shape_.num_layers; }
  int num_experts() const { return shape_.num_experts; }
  int ep_size() const { return shape_.ep_size; }
  int slots_per_rank() const { return slots_per_rank_; }
  int num_slots() const { return slots_per_rank_ * shape_.ep_size; }
  int rank_of(int slot) const { return slot / slots_per_rank_; }

  // The logical expert of each slot: [num_slots].
  std::span<const int32_t> physical_to_logical(int layer) const;
  // The slots that hold an expert, ascending, never empty.
  std::span<const int32_t> replicas(int layer, int expert) const;

  // Whether the rank has a replica of every expert of every layer, so that its tokens need not travel.
  bool is_local(int ep_rank) const;

  // For --ep-dispatch-algorithm static: the slot that rank `source` sends to, per logical expert
  // [num_experts]. That is its own slot; else one on its host; else one anywhere, such that every replica of
  // the expert serves as equally many ranks as possible. host_of [ep_size]: a number per rank, the same for
  // ranks of one host.
  std::vector<int32_t> dispatch_table(int layer, int source, std::span<const int> host_of) const;

  // For --ep-dispatch-algorithm dynamic: the slot for the token with this number. Over consecutive numbers
  // all replicas get the same share.
  int32_t dynamic_slot(int layer, int expert, uint64_t token) const;

  // Work of the busiest rank over that of the mean rank, when replicas share their expert's work equally; 1
  // is perfect, and the answer when there is no work. load: [num_experts].
  double imbalance(int layer, std::span<const double> load) const;

  bool operator==(const ExpertPlacement&) const = default;

 private:
  // map: [num_layers * num_slots], valid.
  ExpertPlacement(const PlacementShape& shape, std::vector<int32_t> map);

  void replace_layer(int layer, const ExpertPlacement& other, int other_layer);

  PlacementShape shape_;
  int slots_per_rank_ = 1;
  std::vector<int32_t> map_;       // [num_layers][num_slots]
  std::vector<int32_t> replicas_;  // [num_layers][num_slots]: slots sorted by expert, then by slot
  std::vector<int32_t> first_;  // [num_layers][num_experts + 1]: where an expert's part of replicas_ begins
};

// One line: layers, experts, ranks, slots, and whether tokens travel.
std::string to_string(const ExpertPlacement& placement);

// The logical experts of one rank in one layer, ascending and each once: "0-3,7".
std::string experts_of_rank(const ExpertPlacement& placement, int layer, int ep_rank);

}  // namespace chorale::parallel
