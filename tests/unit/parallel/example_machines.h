// Machines and models for tests of what costs are computed from. Their figures are round, not measured.
#pragma once

#include "parallel/cost_model.h"

namespace chorale::parallel {

inline CollectiveCosts example_collectives(double latency, double bytes_per_second) {
  CollectiveCosts costs;
  for (CollectiveCost& cost : costs) {
    cost.latency = {{{2, latency}, {8, 4 * latency}}, "round"};
    cost.bytes_per_second = {{{2, bytes_per_second}, {8, bytes_per_second / 2}}, "round"};
  }
  return costs;
}

inline MachineProfile example_cpu(int cores = 2) {
  MachineProfile machine;
  machine.name = "example";
  machine.cores = cores;
  machine.memory = uint64_t{24} << 30;
  machine.read_bandwidth = {{{1e6, 100e9}, {30e6, 60e9}, {100e6, 30e9}}, "round"};
  machine.row_bandwidth = {{{1e4, 10e9}, {1e7, 20e9}}, "round"};
  for (Curve& curve : machine.products) curve = {{{1, 20e9}, {16, 80e9}, {256, 100e9}}, "round"};
  machine.chunk_sums = {{{1, 1e9}}, "round"};
  machine.attention = {{{1, 10e9}, {128, 50e9}}, "round"};
  machine.sampling = {{{1, 100e6}, {64, 200e6}}, "round"};
  machine.op_overhead = {{{1, 1e-6}, {2, 3e-6}}, "round"};
  machine.step_overhead = {{{1, 20e-6}, {8, 100e-6}}, "round"};
  machine.row_overhead = {{{1, 1e-6}}, "round"};
  machine.within = example_collectives(5e-6, 4e9);
  return machine;
}

inline MachineProfile example_gpus(int devices = 8) {
  MachineProfile machine = example_cpu();
  machine.kind = "cuda";
  machine.devices = devices;
  machine.memory = uint64_t{139} << 30;
  machine.read_bandwidth = {{{1e9, 4e12}}, "round"};
  machine.row_bandwidth = {{{1e6, 2e12}}, "round"};
  for (Curve& curve : machine.products) curve = {{{1, 4e12}, {256, 400e12}}, "round"};
  machine.chunk_sums = {{{1, 1e12}}, "round"};
  machine.attention = {{{1, 4e12}, {128, 300e12}}, "round"};
  machine.sampling = {{{1, 20e9}, {64, 500e9}}, "round"};
  machine.op_overhead = {{{1, 2e-6}}, "round"};
  machine.within = example_collectives(10e-6, 200e9);
  machine.across = example_collectives(30e-6, 40e9);
  return machine;
}

// The shapes of models/tales-moe and of Qwen3-30B-A3B.
inline ModelShape example_model() {
  return {.sparse_layers = 6,
          .hidden = 256,
          .query_heads = 8,
          .kv_heads = 4,
          .head_dim = 64,
          .expert_intermediate = 128,
          .experts = 16,
          .experts_per_token = 4,
          .vocab = 4096};
}
inline ModelShape example_large_model() {
  return {.sparse_layers = 48,
          .hidden = 2048,
          .query_heads = 32,
          .kv_heads = 4,
          .head_dim = 128,
          .expert_intermediate = 768,
          .experts = 128,
          .experts_per_token = 8,
          .vocab = 151936};
}

inline ExpertPlacement example_placement(const ModelShape& model, const Strategy& strategy) {
  return ExpertPlacement::trivial({.num_layers = static_cast<int>(model.layers()),
                                   .num_experts = static_cast<int>(model.experts),
                                   .ep_size = strategy.ep_size});
}

inline CostModel example_cost(const MachineProfile& machine, const ModelShape& model,
                              const Strategy& strategy) {
  return {machine, model, strategy, example_placement(model, strategy)};
}

// Each group decodes for so many sequences at a context of so many tokens.
inline StepLoad decode_load(int groups, int64_t sequences, int64_t context) {
  return {std::vector<GroupLoad>(static_cast<size_t>(groups),
                                 {sequences, sequences, sequences * (context + 1), sequences})};
}

}  // namespace chorale::parallel
