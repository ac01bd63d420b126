#include "engine/expert_balancer.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/log.h"

namespace chorale::engine {
namespace {

// What the window has keeps this part of its weight at each look.
constexpr double kDecay = 0.5;

std::vector<double> balance_of(const parallel::ExpertPlacement& placement, const parallel::LoadRows& load) {
  std::vector<double> balance;
  for (int l = 0; l < placement.num_layers(); ++l) {
    balance.push_back(placement.imbalance(l, load[static_cast<size_t>(l)]));
  }
  return balance;
}

double worst(const std::vector<double>& balance) {
  return balance.empty() ? 1 : *std::ranges::max_element(balance);
}

uint64_t changed_slots(std::span<const int32_t> before, std::span<const int32_t> after) {
  uint64_t changed = 0;
  for (size_t i = 0; i < before.size(); ++i) changed += before[i] == after[i] ? 0 : 1;
  return changed;
}

}  // namespace

PlacementProposal propose_placement(const parallel::ExpertPlacement& placement,
                                    const parallel::LoadRows& load, double min_balancedness) {
  const auto better = parallel::ExpertPlacement::balanced(placement.shape(), load);
  PlacementProposal proposal{placement, {}};
  for (int l = 0; l < placement.num_layers(); ++l) {
    const std::vector<double>& row = load[static_cast<size_t>(l)];
    const double now = placement.imbalance(l, row);
    const bool is_low = now * min_balancedness > 1;
    if (!is_low || better.imbalance(l, row) > now * (1 - kLeastGain)) continue;
    proposal.placement = proposal.placement.with_layer(l, better);
    proposal.layers.push_back(l);
  }
  return proposal;
}

ExpertBalancer::ExpertBalancer(ModelRunner& runner, const EplbSettings& settings, const ExpertMoves& moves)
    : runner_(runner),
      settings_(settings),
      placement_(*runner.movable_experts()),
      window_(static_cast<size_t>(placement_.num_layers()),
              std::vector<double>(static_cast<size_t>(placement_.num_experts()), 0.0)),
      last_counts_(runner.expert_load()),
      next_placement_(placement_),
      moves_(moves) {
  publish();
}

void ExpertBalancer::ask(RebalanceCallback callback) {
  asked_.push_back(std::move(callback));
}

void ExpertBalancer::tell() {
  if (!std::exchange(is_done_, false)) return;
  for (const RebalanceCallback& callback : std::exchange(served_, {})) callback(&current_);
}

void ExpertBalancer::give_up() {
  for (auto* callbacks : {&asked_, &served_}) {
    for (const RebalanceCallback& callback : std::exchange(*callbacks, {})) callback(nullptr);
  }
}

void ExpertBalancer::advance(bool stepped, bool has_work) {
  steps_ += stepped ? 1 : 0;
  if (proposal_.valid()) {
    if (proposal_.wait_for(std::chrono::seconds(0)) != std::future_status::ready) return;
    take_proposal();
  }
  if (next_ < layers_.size()) {
    do {
      if (!prepare_layer()) return;
      move_layer();
    } while (!has_work && next_ < layers_.size());
    return;
  }
  if (asked_.empty() && steps_ < settings_.interval) return;
  observe_load();
  const double threshold = 1 / std::max(settings_.min_balancedness, 1e-9);
  if (!asked_.empty() || (settings_.enabled && worst(balance_of(placement_, window_)) > threshold)) begin();
  publish();
}

void ExpertBalancer::observe_load() {
  steps_ = 0;
  std::vector<int64_t> counts = runner_.expert_load();
  const auto experts = static_cast<size_t>(placement_.num_experts());
  for (size_t i = 0; i < counts.size(); ++i) {
    double& load = window_[i / experts][i % experts];
    load = load * kDecay + static_cast<double>(counts[i] - last_counts_[i]);
  }
  last_counts_ = std::move(counts);
}

void ExpertBalancer::begin() {
  const double least = asked_.empty() ? settings_.min_balancedness : 1;
  served_ = std::exchange(asked_, {});
  proposal_load_ = window_;
  current_ = {.before = balance_of(placement_, window_), .after = {}, .moves = {}};
  proposal_ = std::async(std::launch::async, [placement = placement_, load = window_, least] {
    return propose_placement(placement, load, least);
  });
}

void ExpertBalancer::take_proposal() {
  PlacementProposal proposal = proposal_.get();
  next_placement_ = std::move(proposal.placement);
  layers_ = std::move(proposal.layers);
  next_ = 0;
  if (layers_.empty()) finish();
}

// Whether the next layer can be moved. Where its weights cannot be had, no further layer is.
bool ExpertBalancer::prepare_layer() {
  try {
    return runner_.prepare_experts(layers_[next_], next_placement_);
  } catch (const Error& error) {
    if (runner_.failure()) throw;
    log::warn("the experts of {} layers stay where they are: {}", layers_.size() - next_, error.what());
  }
  next_ = layers_.size();
  finish();
  return false;
}

void ExpertBalancer::move_layer() {
  const int layer = layers_[next_++];
  const auto start = std::chrono::steady_clock::now();
  const uint64_t bytes = runner_.place_experts(layer, next_placement_);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  ExpertMoves& moves = current_.moves;
  ++moves.layers;
  moves.slots +=
      changed_slots(placement_.physical_to_logical(layer), next_placement_.physical_to_logical(layer));
  moves.bytes += bytes;
  moves.seconds += seconds.count();
  placement_ = placement_.with_layer(layer, next_placement_);
  if (next_ == layers_.size()) finish();
  publish();
}

void ExpertBalancer::finish() {
  current_.after = balance_of(placement_, proposal_load_);
  ExpertMoves& moves = current_.moves;
  if (moves.layers > 0) {
    moves.rebalances = 1;
    log::info(
        "experts: {} of {} slots moved in {} layers in {:.1f} ms; the busiest rank's work over the mean's, "
        "in the "
        "worst layer: {:.2f} before, {:.2f} after",
        moves.slots, static_cast<uint64_t>(placement_.num_slots()) * moves.layers, moves.layers,
        moves.seconds * 1e3, worst(current_.before), worst(current_.after));
  }
  moves_.rebalances += moves.rebalances;
  moves_.layers += moves.layers;
  moves_.slots += moves.slots;
  moves_.bytes += moves.bytes;
  moves_.seconds += moves.seconds;
  publish();
  is_done_ = true;
}

void ExpertBalancer::publish() {
  RebalanceResult last = !current_.after.empty() || report_ == nullptr ? current_ : report_->last;
  report_ = std::make_shared<const ExpertReport>(ExpertReport{placement_, window_, std::move(last), moves_});
}

}  // namespace chorale::engine
