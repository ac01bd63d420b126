#include "tools/compare/expert_balance.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"

namespace chorale::tools {

std::vector<std::vector<double>> expert_rows(const engine::ParallelPlan& plan,
                                             const std::vector<std::vector<int64_t>>& load_by_rank,
                                             int64_t num_experts) {
  CHORALE_CHECK(load_by_rank.size() == plan.ranks.size());
  const auto experts = static_cast<size_t>(std::max<int64_t>(num_experts, 1));
  const size_t layers = load_by_rank.front().size() / experts;
  std::vector<std::vector<double>> rows(layers, std::vector<double>(plan.ranks.size()));
  for (size_t rank = 0; rank < plan.ranks.size(); ++rank) {
    const engine::RankPart& part = plan.ranks[rank];
    const auto& members = part.topology.group(parallel::GroupKind::expert_group).ranks;
    const int copies = part.topology.moe_tensor_parallel_world_size();
    for (size_t i = 0; i < layers * experts; ++i) {
      const auto load = static_cast<double>(load_by_rank[rank][i]);
      if (load == 0) continue;
      std::vector<double>& layer = rows[i / experts];
      if (!plan.tokens_travel()) {
        layer[rank] += load;
        continue;
      }
      const model::ExpertSlots& slots = part.expert_slots[i / experts];
      for (const std::vector<int32_t>& variant : slots.variants) {
        const auto owner = static_cast<int>(variant[i % experts] / slots.slots_per_rank);
        for (int copy = 0; copy < copies; ++copy) {
          const int target = members[static_cast<size_t>(owner * copies + copy)];
          layer[static_cast<size_t>(target)] += load / static_cast<double>(slots.variants.size());
        }
      }
    }
  }
  return rows;
}

std::optional<Balance> expert_balance(const std::vector<std::vector<double>>& rows) {
  Balance balance{.mean = 0, .worst = 0};
  int64_t layers = 0;
  for (size_t l = 0; l < rows.size(); ++l) {
    const double sum = std::accumulate(rows[l].begin(), rows[l].end(), 0.0);
    if (sum == 0) continue;
    const double busiest = *std::max_element(rows[l].begin(), rows[l].end());
    const double imbalance = busiest / (sum / static_cast<double>(rows[l].size()));
    balance.mean += imbalance;
    ++layers;
    if (imbalance > balance.worst) {
      balance.worst = imbalance;
      balance.worst_layer = static_cast<int64_t>(l);
    }
  }
  if (layers == 0) return std::nullopt;
  balance.mean /= static_cast<double>(layers);
  return balance;
}

}  // namespace chorale::tools
