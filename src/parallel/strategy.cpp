#include "parallel/strategy.h"

#include <algorithm>
#include <charconv>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/error.h"
#include "base/math.h"

namespace chorale::parallel {
namespace {

constexpr std::string_view kTp = "--tp-size";
constexpr std::string_view kDp = "--dp-size";
constexpr std::string_view kEp = "--ep-size";
constexpr std::string_view kMoeTp = "--moe-tp-size";
constexpr std::string_view kMoeDp = "--moe-dp-size";
constexpr std::string_view kMode = "--single-expert-mode";

std::string listed(const std::vector<int>& values) {
  return fmt::format("{}", fmt::join(values, ", "));
}

std::vector<int> divisors(int n) {
  std::vector<int> found;
  for (int d = 1; d <= n; ++d)
    if (n % d == 0) found.push_back(d);
  return found;
}

void check_range(std::string_view flag, std::optional<int> value) {
  if (value && (*value < 1 || *value > kMaxWorld))
    throw_error("{} is {}; it must be a number from 1 to {}", flag, *value, kMaxWorld);
}

void check_world(int64_t tp_size, int64_t dp_size) {
  if (tp_size * dp_size <= kMaxWorld) return;
  throw_error(
      "{} {} x {} {} = {} ranks; at most {} are supported, so with {} {} the values of {} that work are "
      "1 to {}",
      kTp, tp_size, kDp, dp_size, tp_size * dp_size, kMaxWorld, kTp, tp_size, kDp, kMaxWorld / tp_size);
}

// tp_size and dp_size of the strategy.
Strategy attention_sizes(const StrategyFlags& flags) {
  Strategy s{.tp_size = flags.tp_size.value_or(1), .dp_size = flags.dp_size.value_or(1)};
  if (flags.enable_dp_attention) {
    if (s.tp_size % s.dp_size != 0)
      throw_error(
          "{} {} does not divide {} {}, as it must with --enable-dp-attention; the values that work are {}",
          kDp, s.dp_size, kTp, s.tp_size, listed(divisors(s.tp_size)));
    s.tp_size /= s.dp_size;
  }
  check_world(s.tp_size, s.dp_size);
  return s;
}

[[noreturn]] void throw_contradiction(std::string_view mode, int ep_size, const std::string& given) {
  throw_error("{} {} (or SINGLE_EXPERT_MODE={}) makes {} {}, which {} contradicts; give one of the two",
              kMode, mode, mode, kEp, ep_size, given);
}

// ep_size when --single-expert-mode decides it.
std::optional<int> single_expert_ep_size(const StrategyFlags& flags, int world, int64_t num_experts) {
  if (!flags.single_expert_mode) return std::nullopt;
  const std::string& mode = *flags.single_expert_mode;
  if (mode != "dp" && mode != "tp")
    throw_error("{} (or SINGLE_EXPERT_MODE) is \"{}\"; the values that work are dp, tp", kMode, mode);
  if (num_experts != 1)
    throw_error(
        "{} {} (or SINGLE_EXPERT_MODE={}) is for a model with one expert per layer, and this model has {}; "
        "leave it out and give {}",
        kMode, mode, mode, num_experts, kEp);
  const int ep_size = mode == "dp" ? world : 1;
  const auto must_be = [&](std::string_view flag, std::optional<int> given, int wanted) {
    if (given && *given != wanted) throw_contradiction(mode, ep_size, fmt::format("{} {}", flag, *given));
  };
  must_be(kEp, flags.ep_size, ep_size);
  if (mode == "dp") {
    must_be(kMoeTp, flags.moe_tp_size, 1);
    must_be(kMoeDp, flags.moe_dp_size, 1);
  } else if (flags.enable_ep_moe && !flags.ep_size && flags.tp_size.value_or(1) != 1) {
    throw_contradiction(mode, ep_size, fmt::format("--enable-ep-moe with {} {}", kTp, *flags.tp_size));
  }
  return ep_size;
}

int expert_parallel_size(const StrategyFlags& flags, int world, int64_t num_experts) {
  if (const auto by_mode = single_expert_ep_size(flags, world, num_experts)) return *by_mode;
  const int ep_size = flags.ep_size.value_or(flags.enable_ep_moe ? flags.tp_size.value_or(1) : 1);
  if (world % ep_size != 0)
    throw_error("{} {} does not divide the {} ranks; the values that work are {}", kEp, ep_size, world,
                listed(divisors(world)));
  return ep_size;
}

// moe_tp_size and moe_dp_size, which share the ranks that ep_size leaves.
void set_moe_sizes(const StrategyFlags& flags, Strategy& s) {
  const int left = s.world() / s.ep_size;
  const auto check = [&](std::string_view flag, std::optional<int> given) {
    if (given && left % *given != 0)
      throw_error("{} {} does not divide {} ranks / {} {} = {}; the values that work are {}", flag, *given,
                  s.world(), kEp, s.ep_size, left, listed(divisors(left)));
  };
  check(kMoeTp, flags.moe_tp_size);
  check(kMoeDp, flags.moe_dp_size);
  if (flags.moe_tp_size) {
    s.moe_tp_size = *flags.moe_tp_size;
    s.moe_dp_size = left / s.moe_tp_size;
    if (flags.moe_dp_size && *flags.moe_dp_size != s.moe_dp_size)
      throw_error("{} {} x {} {} x {} {} is not the {} ranks; the value of {} that works is {}", kEp,
                  s.ep_size, kMoeTp, s.moe_tp_size, kMoeDp, *flags.moe_dp_size, s.world(), kMoeDp,
                  s.moe_dp_size);
    return;
  }
  const bool own_experts = !flags.enable_dp_attention && s.ep_size <= s.tp_size && left % s.dp_size == 0;
  s.moe_dp_size = flags.moe_dp_size.value_or(own_experts ? s.dp_size : 1);
  s.moe_tp_size = left / s.moe_dp_size;
}

// The field of the flags that "tp", "dp", ... stands for; null for other names.
std::optional<int>* field_of(std::string_view name, StrategyFlags& flags) {
  const std::pair<std::string_view, std::optional<int>*> fields[] = {{"tp", &flags.tp_size},
                                                                     {"dp", &flags.dp_size},
                                                                     {"ep", &flags.ep_size},
                                                                     {"moe_tp", &flags.moe_tp_size},
                                                                     {"moe_dp", &flags.moe_dp_size}};
  for (const auto& [known, field] : fields)
    if (name == known) return field;
  return nullptr;
}

void parse_size(std::string_view item, StrategyFlags& flags) {
  const size_t equals = item.find('=');
  std::optional<int>* field = field_of(item.substr(0, equals), flags);
  if (field == nullptr || equals == std::string_view::npos)
    throw_error(
        "\"{}\" is not a size; write tp=, dp=, ep=, moe_tp= or moe_dp= and a number, with commas between",
        item);
  if (*field) throw_error("{} is given twice", item.substr(0, equals));
  const std::string_view digits = item.substr(equals + 1);
  int value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || end != digits.data() + digits.size())
    throw_error("\"{}\" has no number from 1 to {}", item, kMaxWorld);
  *field = value;
}

// Whether groups of tp_size ranks can share this model's attention and dense layers.
bool attention_works(int tp_size, const ShardedSizes& sizes) {
  return sizes.chunks(sizes.query_heads) % tp_size == 0 &&
         (sizes.kv_heads % tp_size == 0 || tp_size % sizes.kv_heads == 0) &&
         (sizes.intermediate < 1 || sizes.chunks(sizes.intermediate) % tp_size == 0);
}

std::string because_of_flag(const ShardedSizes& sizes) {
  return sizes.max_chunks < kMaxChunks ? fmt::format(" under --max-tp-size {}", sizes.max_chunks) : "";
}

std::string why_attention_fails(int tp_size, const ShardedSizes& sizes) {
  const int64_t chunks = sizes.chunks(sizes.query_heads);
  if (chunks % tp_size != 0)
    return fmt::format("the {} query heads of the model (num_attention_heads) come in {} equal chunks{}",
                       sizes.query_heads, chunks, because_of_flag(sizes));
  if (sizes.kv_heads % tp_size != 0 && tp_size % sizes.kv_heads != 0)
    return fmt::format(
        "the {} key/value heads of the model (num_key_value_heads) neither divide by that nor divide it",
        sizes.kv_heads);
  return fmt::format("the dense layers' intermediate_size {} comes in {} equal chunks{}", sizes.intermediate,
                     sizes.chunks(sizes.intermediate), because_of_flag(sizes));
}

}  // namespace

std::string to_string(const Strategy& s) {
  return fmt::format("tp={},dp={},ep={},moe_tp={},moe_dp={}", s.tp_size, s.dp_size, s.ep_size, s.moe_tp_size,
                     s.moe_dp_size);
}

Strategy parse_strategy(std::string_view text) {
  try {
    StrategyFlags flags;
    for (size_t from = 0; from <= text.size();) {
      const size_t comma = std::min(text.find(',', from), text.size());
      parse_size(text.substr(from, comma - from), flags);
      from = comma + 1;
    }
    return resolve_strategy(flags, 0);
  } catch (const Error& error) {
    throw_error("--strategy \"{}\": {}", text, error.what());
  }
}

Strategy resolve_strategy(const StrategyFlags& flags, int64_t num_experts) {
  check_range(kTp, flags.tp_size);
  check_range(kDp, flags.dp_size);
  check_range(kEp, flags.ep_size);
  check_range(kMoeTp, flags.moe_tp_size);
  check_range(kMoeDp, flags.moe_dp_size);
  Strategy s = attention_sizes(flags);
  s.ep_size = expert_parallel_size(flags, s.world(), num_experts);
  set_moe_sizes(flags, s);
  return s;
}

void check_sizes(const Strategy& s) {
  check_range(kTp, s.tp_size);
  check_range(kDp, s.dp_size);
  check_range(kEp, s.ep_size);
  check_range(kMoeTp, s.moe_tp_size);
  check_range(kMoeDp, s.moe_dp_size);
  check_world(s.tp_size, s.dp_size);
  const int64_t product = int64_t{s.ep_size} * s.moe_tp_size * s.moe_dp_size;
  if (product != s.world())
    throw_error("{} {} x {} {} x {} {} = {} is not {} {} x {} {} = {} ranks; both products must be the same",
                kEp, s.ep_size, kMoeTp, s.moe_tp_size, kMoeDp, s.moe_dp_size, product, kTp, s.tp_size, kDp,
                s.dp_size, s.world());
}

void check_strategy(const Strategy& s, const ShardedSizes& sizes) {
  check_sizes(s);
  if (sizes.query_heads < 1 || sizes.kv_heads < 1)
    throw_error("{} cannot split a model with {} query heads and {} key/value heads; both must be at least 1",
                kTp, sizes.query_heads, sizes.kv_heads);
  if (!attention_works(s.tp_size, sizes)) {
    std::vector<int> works;
    for (const int tp_size : divisors(8))
      if (attention_works(tp_size, sizes)) works.push_back(tp_size);
    throw_error("{} makes {} ranks share the attention, but {}; the numbers of ranks that work are {}", kTp,
                s.tp_size, why_attention_fails(s.tp_size, sizes), listed(works));
  }
  if (sizes.expert_intermediate < 1) return;
  const auto chunks = static_cast<int>(sizes.chunks(sizes.expert_intermediate));
  if (chunks % s.moe_tp_size == 0) return;
  std::vector<int> works;
  for (const int moe_tp_size : divisors(chunks))
    if (s.world() % moe_tp_size == 0) works.push_back(moe_tp_size);
  throw_error(
      "{} is {} (what {} {} and {} {} leave of {} ranks), but the experts' moe_intermediate_size {} comes in "
      "{} equal chunks{}; the values that work are {}",
      kMoeTp, s.moe_tp_size, kEp, s.ep_size, kMoeDp, s.moe_dp_size, s.world(), sizes.expert_intermediate,
      chunks, because_of_flag(sizes), listed(works));
}

std::vector<Strategy> all_strategies(int world, const ShardedSizes& sizes) {
  check_range("--ranks", world);
  const bool has_experts = sizes.expert_intermediate > 0;
  const int64_t chunks = has_experts ? sizes.chunks(sizes.expert_intermediate) : 1;
  std::vector<Strategy> all;
  for (const int tp_size : divisors(world)) {
    if (!attention_works(tp_size, sizes)) continue;
    for (const int ep_size : divisors(has_experts ? world : 1))
      for (const int moe_tp_size : divisors(world / ep_size))
        if (chunks % moe_tp_size == 0)
          all.push_back({.tp_size = tp_size,
                         .dp_size = world / tp_size,
                         .ep_size = ep_size,
                         .moe_tp_size = moe_tp_size,
                         .moe_dp_size = world / ep_size / moe_tp_size});
  }
  return all;
}

}  // namespace chorale::parallel
