#include "tools/compare/configs.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/error.h"

namespace chorale::tools {
namespace {

using parallel::Strategy;

bool works(const Strategy& strategy, const parallel::ShardedSizes& sizes) {
  try {
    parallel::check_strategy(strategy, sizes);
    return true;
  } catch (const Error&) {
    return false;
  }
}

Strategy expert_parallel(int ranks, const parallel::ShardedSizes& sizes) {
  std::optional<Strategy> largest;
  for (int tp = std::max(1, ranks / 2); tp >= 1; --tp) {
    if (ranks % tp != 0) continue;
    const Strategy strategy{.tp_size = tp, .dp_size = ranks / tp, .ep_size = ranks};
    if (works(strategy, sizes)) return strategy;
    if (!largest) largest = strategy;
  }
  return *largest;  // to be refused with the reason
}

Strategy resolved(int tp_size, int dp_size, std::optional<int> ep_size) {
  return parallel::resolve_strategy({.tp_size = tp_size, .dp_size = dp_size, .ep_size = ep_size}, 0);
}

void add_once(std::vector<NamedStrategy>& all, std::string name, const Strategy& strategy) {
  const bool known =
      std::any_of(all.begin(), all.end(), [&](const NamedStrategy& s) { return s.strategy == strategy; });
  if (known) return;
  if (name.empty()) name = short_text(strategy);
  all.push_back({std::move(name), strategy, ""});
}

}  // namespace

std::vector<NamedStrategy> strategies_of_config(std::string_view config, int ranks,
                                                const parallel::ShardedSizes& sizes) {
  if (ranks < 1 || ranks > parallel::kMaxWorld)
    throw_error("--ranks is {}; it must be a number from 1 to {}", ranks, parallel::kMaxWorld);
  const bool all = config == "all";
  const bool ep = all || config == "both" || config == "ep";
  const bool tp = all || config == "both" || config == "tp";
  if (!ep && !tp && config != "simple")
    throw_error("--config is \"{}\"; the values that work are simple, ep, tp, both, all", config);

  std::vector<NamedStrategy> chosen;
  if (all || config == "simple") add_once(chosen, "simple", {});
  if (ep) add_once(chosen, "ep", expert_parallel(ranks, sizes));
  if (tp) add_once(chosen, "tp", resolved(ranks, 1, {}));
  if (!all) return chosen;
  add_once(chosen, "dp", resolved(1, ranks, {}));
  add_once(chosen, "", resolved(1, ranks, ranks));  // attention by batch, experts by owner
  add_once(chosen, "", resolved(ranks, 1, ranks));  // attention by head, experts by owner
  if (ranks % 2 == 0) {
    add_once(chosen, "", resolved(ranks / 2, 2, {}));         // two replicas of a tensor-parallel model
    add_once(chosen, "", resolved(ranks / 2, 2, ranks / 2));  // two replicas of an expert-parallel one
    add_once(chosen, "", resolved(ranks, 1, ranks / 2));      // experts by owner, each split in two
  }
  return chosen;
}

NamedStrategy strategy_from_text(std::string_view text) {
  NamedStrategy named{std::string(text), {}, ""};
  try {
    named.strategy = parallel::parse_strategy(text);
    named.name = short_text(*named.strategy);
  } catch (const Error& error) {
    named.error = error.what();
  }
  return named;
}

std::string short_text(const Strategy& strategy) {
  std::string text;
  const auto add = [&](std::string_view name, int size) {
    if (size != 1) text += fmt::format("{}{}={}", text.empty() ? "" : " ", name, size);
  };
  add("tp", strategy.tp_size);
  add("dp", strategy.dp_size);
  add("ep", strategy.ep_size);
  add("moe_tp", strategy.moe_tp_size);
  add("moe_dp", strategy.moe_dp_size);
  return text.empty() ? "1 rank" : text;
}

std::string label(const NamedStrategy& strategy) {
  if (!strategy.strategy) return strategy.name;
  const std::string sizes = short_text(*strategy.strategy);
  return sizes == strategy.name ? sizes : strategy.name + ": " + sizes;
}

}  // namespace chorale::tools
