// How long a step takes and what a rank holds, from a machine's figures, a model's shape and a strategy. Pure
// arithmetic: no device, no input or output.
//
// The model follows a step through its layers. What the ranks do between two collectives is a phase: each op
// takes its arithmetic or the reading of its weights, whichever is longer, and the ranks of a phase wait for
// the slowest. Ranks on CPUs share cores and bandwidth: more ranks than cores take turns.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "parallel/expert_placement.h"
#include "parallel/machine_profile.h"
#include "parallel/sharding_plan.h"
#include "parallel/strategy.h"

namespace chorale::parallel {

// Sizes of a model, and bytes of what it keeps. Quantized weights have their scales in linear_bytes.
struct ModelShape {
  int64_t dense_layers = 0;
  int64_t sparse_layers = 0;
  int64_t hidden = 0;
  int64_t query_heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t intermediate = 0;  // of the dense layers
  int64_t expert_intermediate = 0;
  int64_t experts = 0;  // of each sparse layer
  int64_t experts_per_token = 0;
  int64_t vocab = 0;
  int64_t max_tp_size = kMaxChunks;  // ranks that may split a matrix, at most
  double linear_bytes = 2;           // of a weight of attention, dense layers and experts
  double head_bytes = 2;             // of a weight of the head
  double activation_bytes = 2;       // of an activation, and of the embedding
  double kv_bytes = 2;               // of an element of the KV cache

  int64_t layers() const { return dense_layers + sparse_layers; }
  ShardedSizes sharded_sizes() const;
  bool operator==(const ModelShape&) const = default;
};

// What one data-parallel group does in a step.
struct GroupLoad {
  int64_t tokens = 0;           // computed
  int64_t sequences = 0;        // that have tokens in the step
  int64_t attended_tokens = 0;  // the sum over tokens of the positions that each attends to, itself included
  int64_t logits_rows = 0;

  bool operator==(const GroupLoad&) const = default;
};

// groups: [dp_size].
struct StepLoad {
  std::vector<GroupLoad> groups;
};

// Parts of a step's seconds. Waiting for the slowest rank is `imbalance`, everything else is what the ranks
// do on average, times the turns that ranks without a core of their own take.
enum class CostPart {
  products,        // arithmetic of matrix products
  weights,         // reading of weights, beyond the arithmetic that it overlaps with
  attention,       // with its reading of the KV cache
  rows,            // norms, sums and other work on rows
  all_gather,      // attention's and dense layers' collectives
  reduce_scatter,  //
  dispatch,        // tokens to their experts
  combine,         // results home
  logits,          // gathering rows for the head and logits from it
  imbalance,       // waiting for the slowest rank
  sampling,
  overhead,  // of ops, of the step and of the engine
};
inline constexpr size_t kNumCostParts = 12;
std::string_view name_of(CostPart part);

struct StepCost {
  std::array<double, kNumCostParts> seconds{};  // by CostPart

  double& operator[](CostPart part) { return seconds[static_cast<size_t>(part)]; }
  double operator[](CostPart part) const { return seconds[static_cast<size_t>(part)]; }
  double total() const;
  StepCost& operator+=(const StepCost& other);
};

// A curve made quick: what one unit takes, at quarters of octaves of x, straight between them.
class CurveTable {
 public:
  CurveTable() = default;
  // scale / curve.at(x). The table begins at `first` and reaches 2^20 times that.
  explicit CurveTable(const Curve& curve, double scale = 1, double first = 1);
  // At the ends the nearest.
  double at(double x) const noexcept { return at_log2(log2_of(x)); }
  // For one x in several tables: what takes longest is its logarithm.
  double at_log2(double log2_x) const noexcept;
  static double log2_of(double x) noexcept;

 private:
  static constexpr size_t kPoints = 20 * 4 + 1;
  std::array<double, kPoints> values_{};
  double log2_first_ = 0;
};

// Immutable but for the load of experts; step() is const and may be called by several threads at once.
class CostModel {
 public:
  // Throws Error when the strategy does not work for the model (check_strategy), when the placement is not of
  // its ep_size and experts, or when the machine has too few figures: collectives across nodes, where the
  // ranks need several. A CPU's ranks are on one node.
  CostModel(const MachineProfile& machine, const ModelShape& model, const Strategy& strategy,
            const ExpertPlacement& placement);

  // The share of the experts' work that each expert gets, in any unit, all layers alike: [experts]. Until
  // this is called all get the same. Throws Error for another number of them or one that is negative.
  void set_expert_share(std::span<const double> share);

  // Some 0.3 microseconds for each group that differs from the one before it; allocates nothing. load.groups:
  // [dp_size].
  StepCost step(const StepLoad& load) const noexcept;

  const Strategy& strategy() const { return strategy_; }
  bool tokens_travel() const { return travels_; }
  int threads_per_rank() const { return threads_; }
  // Busiest rank's share of the experts' work over the mean.
  double expert_imbalance() const { return busiest_share_ * strategy_.ep_size; }

  // Bytes without padding. engine::plan_memory() knows them exactly.
  double weight_bytes_per_rank() const;
  double kv_bytes_per_token() const;  // of one rank, for a token of its group
  // Tokens of KV cache of each group, when every rank has so many bytes for it.
  int64_t kv_capacity(double bytes_per_rank) const;

 private:
  struct Product {
    size_t kind = 0;  // of operations_: a pointer there would not outlive a copy of the model
    double operations_per_row = 0;
    double sums_per_row = 0;    // of canonical chunks, which are rounded to fixed point
    double weight_seconds = 0;  // to read the matrix once
  };
  // A collective of one group, with its share of what groups that work at once do to each other.
  struct Link {
    double latency = 0;           // seconds of an operation
    double seconds_per_byte = 0;  // that a rank receives
    double contention = 1;        // of all groups over one alone
  };
  // What the ranks of a phase take: the mean of each part, and the slowest rank's total.
  struct Phase;

  Product product(ProductKind kind, double outputs, double inputs, double weight_bytes) const;
  Link link(CollectiveKind kind, int size) const;
  double weight_bytes_of(double tp, double moe_tp, double experts) const;
  void set_machine();
  void set_products();
  void set_links();
  // Of one product: rows of each matrix, their logarithm, and how many matrices.
  struct ProductLoad {
    double rows = 0;
    double log2_rows = 0;
    double matrices = 1;
  };
  static ProductLoad product_load(double rows, double matrices = 1) noexcept;
  void add_product(const Product& product, const ProductLoad& load, StepCost& cost) const noexcept;
  void add_attention(const GroupLoad& load, StepCost& cost) const noexcept;
  void add_dense(double tokens, StepCost& cost) const noexcept;
  void add_experts(double tokens, double share, double layers, StepCost& cost) const noexcept;
  void add_head(const GroupLoad& load, StepCost& cost) const noexcept;
  StepCost group_cost(const GroupLoad& load) const noexcept;
  void add_phase(const Phase& phase, StepCost& cost) const noexcept;
  void add_travel(const StepLoad& load, StepCost& cost) const noexcept;
  void add_collectives(const StepLoad& load, StepCost& cost) const noexcept;
  void add_sampling(const StepLoad& load, StepCost& cost) const noexcept;
  double tokens_of_replica(const StepLoad& load, int replica) const noexcept;
  void set_rank_shares(std::span<const double> share);

  MachineProfile machine_;
  ModelShape model_;
  Strategy strategy_;
  ExpertPlacement placement_;
  bool travels_ = false;
  int threads_ = 1;
  double core_share_ = 1;  // of a node's cores that one rank uses, when all of them are busy
  double turns_ = 1;       // that ranks take which share a core
  double mean_share_ = 1;  // of the work of a replica of the experts, that one rank has
  double busiest_share_ = 1;
  double owners_ = 1;         // expert-parallel ranks that a token goes to, on average
  double others_ = 0;         // ranks that it is sent to
  double local_experts_ = 1;  // that a rank multiplies with

  std::array<CurveTable, kNumProductKinds> operations_;  // seconds of one by rows; a rank's
  CurveTable sums_, attention_, row_bytes_, sampling_, row_overhead_;
  double kv_seconds_per_byte_ = 0;
  double op_seconds_ = 0;
  double step_seconds_ = 0;
  Product qkv_, output_, router_, gate_up_, down_, dense_gate_up_, dense_down_, head_;
  Link gather_, scatter_, travel_, last_gather_, logits_;
};

}  // namespace chorale::parallel
