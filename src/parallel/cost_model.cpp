#include "parallel/cost_model.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"

namespace chorale::parallel {
namespace {

// Ops of a layer and of a step, as the layers give them (model/layers.cpp).
constexpr double kOpsOfAttention = 6;   // norm, q/k/v, rope and append, attention, o, norm
constexpr double kOpsOfCpu = 2;         // sums and norms are ops of their own there
constexpr double kOpsOfDense = 2;       // gate and up, down
constexpr double kOpsOfRouting = 3;     // router, route, clear
constexpr double kOpsOfTravel = 8;      // router, choose, count, dispatch, sort, clear twice, add
constexpr double kOpsOfStep = 8;        // upload, embed, rope table, the last rows, norm, head, sampling
constexpr double kBytesOfSum = 8;       // fixed point
constexpr double kBytesOfResidual = 4;  // float32
constexpr double kBytesOfLogit = 4;
constexpr double kBytesOfChoice = 8;  // an expert's slot and weight, beside a row that travels
constexpr double kLine = 64;          // to which rows are padded

double padded(double bytes) {
  return std::ceil(bytes / kLine) * kLine;
}

double as_double(int64_t value) {
  return static_cast<double>(value);
}

}  // namespace

std::string_view name_of(CostPart part) {
  constexpr std::string_view kNames[] = {"products",   "weights",        "attention", "rows",
                                         "all_gather", "reduce_scatter", "dispatch",  "combine",
                                         "logits",     "imbalance",      "sampling",  "overhead"};
  static_assert(std::size(kNames) == kNumCostParts);
  return kNames[static_cast<size_t>(part)];
}

ShardedSizes ModelShape::sharded_sizes() const {
  return {.vocab = vocab,
          .query_heads = query_heads,
          .kv_heads = kv_heads,
          .intermediate = dense_layers > 0 ? intermediate : 0,
          .expert_intermediate = sparse_layers > 0 ? expert_intermediate : 0,
          .max_chunks = max_tp_size};
}

double StepCost::total() const {
  return std::accumulate(seconds.begin(), seconds.end(), 0.0);
}

StepCost& StepCost::operator+=(const StepCost& other) {
  for (size_t part = 0; part < kNumCostParts; ++part) seconds[part] += other.seconds[part];
  return *this;
}

CurveTable::CurveTable(const Curve& curve, double scale, double first) : log2_first_(std::log2(first)) {
  for (size_t i = 0; i < kPoints; ++i)
    values_[i] = scale / curve.at(first * std::exp2(static_cast<double>(i) / 4));
}

double CurveTable::log2_of(double x) noexcept {
  return std::log2(std::max(x, 1e-9));
}

double CurveTable::at_log2(double log2_x) const noexcept {
  const double place = 4 * (log2_x - log2_first_);
  if (!(place > 0)) return values_.front();
  if (place >= static_cast<double>(kPoints - 1)) return values_.back();
  const auto i = static_cast<size_t>(place);
  const double part = place - static_cast<double>(i);
  return values_[i] + part * (values_[i + 1] - values_[i]);
}

struct CostModel::Phase {
  StepCost mean;
  double slowest = 0;

  void add(const StepCost& cost, double weight) {
    slowest = std::max(slowest, cost.total());
    for (size_t part = 0; part < kNumCostParts; ++part) mean.seconds[part] += weight * cost.seconds[part];
  }
};

CostModel::CostModel(const MachineProfile& machine, const ModelShape& model, const Strategy& strategy,
                     const ExpertPlacement& placement)
    : machine_(machine), model_(model), strategy_(strategy), placement_(placement) {
  check_strategy(strategy, model.sharded_sizes());
  check_profile(machine);
  if (model.sparse_layers > 0 &&
      (placement.ep_size() != strategy.ep_size || placement.num_experts() != model.experts))
    throw_error("the placement has {} experts on {} ranks; the model has {} and the strategy {}",
                placement.num_experts(), placement.ep_size(), model.experts, strategy.ep_size);
  const int ranks_of_replica = strategy.ep_size * strategy.moe_tp_size;
  if (model.sparse_layers > 0 && ranks_of_replica > 1) {
    travels_ = strategy.moe_tp_size > 1;
    for (int rank = 0; rank < strategy.ep_size; ++rank) travels_ = travels_ || !placement.is_local(rank);
  }
  set_machine();
  set_products();
  set_links();
  set_expert_share(std::vector<double>(static_cast<size_t>(placement.num_experts()), 1.0));
}

// Cores are shared as the flag --threads-per-rank does by default.
void CostModel::set_machine() {
  const int world = strategy_.world();
  if (machine_.shares_cores()) {
    threads_ = std::max(1, machine_.cores / world);
    core_share_ = static_cast<double>(threads_) / machine_.cores;
    turns_ = std::max(1.0, world * core_share_);
  }
  const double per_share = 1 / core_share_;
  for (size_t kind = 0; kind < kNumProductKinds; ++kind)
    operations_[kind] = CurveTable(machine_.products[kind], per_share);
  sums_ = CurveTable(machine_.chunk_sums, per_share);
  attention_ = CurveTable(machine_.attention, per_share);
  row_bytes_ = CurveTable(machine_.row_bandwidth, per_share, 1024);
  sampling_ = CurveTable(machine_.sampling, per_share);
  // Seconds, not rates.
  op_seconds_ = machine_.op_overhead.at(threads_);
  step_seconds_ = machine_.step_overhead.at(world);
  Curve rows_per_second = machine_.row_overhead;
  for (auto& [x, y] : rows_per_second.points) y = 1 / y;
  row_overhead_ = CurveTable(rows_per_second);
  // The cache of a thousand tokens of context stands for what decoding reads.
  kv_seconds_per_byte_ = per_share / machine_.read_bandwidth.at(1024 * kv_bytes_per_token() * world);
}

void CostModel::set_products() {
  const auto tp = static_cast<double>(strategy_.tp_size);
  const auto split = static_cast<double>(strategy_.moe_tp_size);
  const double hidden = as_double(model_.hidden);
  const double query = as_double(model_.query_heads * model_.head_dim) / tp;
  const double kv = std::max(1.0, as_double(model_.kv_heads) / tp) * as_double(model_.head_dim);
  qkv_ = product(ProductKind::plain, query + 2 * kv, hidden, model_.linear_bytes);
  output_ = product(ProductKind::order_free, hidden, query, model_.linear_bytes);
  head_ = product(ProductKind::plain, as_double(model_.vocab) / tp, hidden, model_.head_bytes);
  const ShardedSizes sizes = model_.sharded_sizes();
  const auto chunk_sums = [&](int64_t size, double parts) {
    return hidden * as_double(sizes.chunks(size)) / parts;
  };
  output_.sums_per_row = chunk_sums(model_.query_heads, tp);
  if (sizes.intermediate > 0) {
    const double inner = as_double(model_.intermediate) / tp;
    dense_gate_up_ = product(ProductKind::gated, 2 * inner, hidden, model_.linear_bytes);
    dense_down_ = product(ProductKind::order_free, hidden, inner, model_.linear_bytes);
    dense_down_.sums_per_row = chunk_sums(model_.intermediate, tp);
  }
  if (sizes.expert_intermediate > 0) {
    const double inner = as_double(model_.expert_intermediate) / split;
    gate_up_ = product(ProductKind::gated, 2 * inner, hidden, model_.linear_bytes);
    down_ = product(ProductKind::order_free, hidden, inner, model_.linear_bytes);
    down_.sums_per_row = chunk_sums(model_.expert_intermediate, split);
    router_ = product(ProductKind::plain, as_double(model_.experts), hidden, model_.activation_bytes);
  }
}

CostModel::Product CostModel::product(ProductKind kind, double outputs, double inputs,
                                      double weight_bytes) const {
  // Threads of one process share a copy of the weights, so the whole model tells from which memory they come.
  const double resident = machine_.shares_cores()
                              ? weight_bytes_of(1, 1, static_cast<double>(placement_.num_experts()))
                              : weight_bytes_per_rank();
  const double bandwidth = machine_.read_bandwidth.at(resident) * core_share_;
  return {.kind = static_cast<size_t>(kind),
          .operations_per_row = 2 * outputs * inputs,
          .sums_per_row = 0,
          .weight_seconds = outputs * inputs * weight_bytes / bandwidth};
}

CostModel::Link CostModel::link(CollectiveKind kind, int size) const {
  if (size == 1) return {};
  const bool one_node = machine_.shares_cores() || (size <= machine_.devices && machine_.devices % size == 0);
  const CollectiveCost& cost = (one_node ? machine_.within : machine_.across)[static_cast<size_t>(kind)];
  if (cost.latency.points.empty())
    throw_error("across.{}: {} needs several nodes of {} devices, and the machine has no figures for them",
                name_of(kind), to_string(strategy_), machine_.devices);
  Link link{.latency = cost.latency.at(size), .seconds_per_byte = 1 / cost.bytes_per_second.at(size)};
  if (machine_.shares_cores()) {
    const double groups = static_cast<double>(strategy_.world()) / size;
    link.contention = std::max(1.0, groups * std::min(size, machine_.cores) / machine_.cores);
  }
  return link;
}

void CostModel::set_links() {
  gather_ = last_gather_ = link(CollectiveKind::all_gather, strategy_.tp_size);
  scatter_ = link(CollectiveKind::reduce_scatter, strategy_.tp_size);
  logits_ = link(CollectiveKind::gather, strategy_.tp_size);
  if (travels_) travel_ = link(CollectiveKind::all_to_all, strategy_.ep_size * strategy_.moe_tp_size);
}

void CostModel::set_expert_share(std::span<const double> share) {
  if (static_cast<int>(share.size()) != placement_.num_experts())
    throw_error("the load of {} experts is given; the model has {}", share.size(), placement_.num_experts());
  double sum = 0;
  for (const double s : share) {
    if (!(s >= 0) || !std::isfinite(s)) throw_error("the load of an expert is {}; it must be 0 or more", s);
    sum += s;
  }
  if (sum > 0) {
    set_rank_shares(share);
  } else {
    set_rank_shares(std::vector<double>(share.size(), 1.0));
  }
}

// Replicas of an expert share its work equally.
void CostModel::set_rank_shares(std::span<const double> share) {
  const double sum = std::accumulate(share.begin(), share.end(), 0.0);
  std::vector<double> of_rank(static_cast<size_t>(strategy_.ep_size), 0.0);
  for (int expert = 0; expert < placement_.num_experts(); ++expert) {
    const std::span<const int32_t> slots = placement_.replicas(0, expert);
    for (const int32_t slot : slots)
      of_rank[static_cast<size_t>(placement_.rank_of(slot))] +=
          share[static_cast<size_t>(expert)] / (sum * static_cast<double>(slots.size()));
  }
  const double experts = placement_.num_experts();
  const auto chosen = static_cast<double>(std::max<int64_t>(model_.experts_per_token, 1));
  mean_share_ = 1.0 / strategy_.ep_size;
  busiest_share_ = *std::max_element(of_rank.begin(), of_rank.end());
  owners_ = 0;
  for (const double part : of_rank) {
    // The chance that none of the different experts of a token is here.
    double none = 1;
    for (double i = 0; i < chosen; ++i) none *= std::max(0.0, (experts * (1 - part) - i) / (experts - i));
    owners_ += 1 - none;
  }
  const double at_home = owners_ / strategy_.ep_size;
  others_ = owners_ * strategy_.moe_tp_size - at_home;
  local_experts_ = travels_ ? placement_.slots_per_rank() : experts;
  if (!travels_) busiest_share_ = mean_share_;
}

CostModel::ProductLoad CostModel::product_load(double rows, double matrices) noexcept {
  return {rows, CurveTable::log2_of(rows), matrices};
}

void CostModel::add_product(const Product& product, const ProductLoad& load, StepCost& cost) const noexcept {
  if (!(load.rows > 0)) return;
  const double all_rows = load.rows * load.matrices;
  double arithmetic =
      all_rows * product.operations_per_row * operations_[product.kind].at_log2(load.log2_rows);
  if (product.sums_per_row > 0) arithmetic += all_rows * product.sums_per_row * sums_.at_log2(load.log2_rows);
  cost[CostPart::products] += arithmetic;
  cost[CostPart::weights] += std::max(0.0, load.matrices * product.weight_seconds - arithmetic);
}

// One layer's on one rank of the group.
void CostModel::add_attention(const GroupLoad& load, StepCost& cost) const noexcept {
  const double tokens = as_double(load.tokens);
  const double sequences = std::max(1.0, as_double(load.sequences));
  const auto tp = static_cast<double>(strategy_.tp_size);
  const ProductLoad product = product_load(tokens);
  add_product(qkv_, product, cost);
  add_product(output_, product, cost);

  const double query = as_double(model_.query_heads * model_.head_dim) / tp;
  const double attended = as_double(load.attended_tokens);
  const double operations = 4 * attended * query;
  const double read = attended / tokens * sequences * kv_bytes_per_token() / as_double(model_.layers());
  cost[CostPart::attention] +=
      std::max(operations * attention_.at(tokens / sequences), read * kv_seconds_per_byte_);

  const double hidden = as_double(model_.hidden);
  // Two updates of the residual with their norms at home; q, k and v written, rotated and read.
  const double home = 2 * hidden * (kBytesOfSum + 2 * kBytesOfResidual + model_.activation_bytes);
  const double bytes = tokens / tp * home + tokens * 4 * query * model_.activation_bytes;
  cost[CostPart::rows] += bytes * row_bytes_.at(bytes);
}

void CostModel::add_dense(double tokens, StepCost& cost) const noexcept {
  const ProductLoad product = product_load(tokens);
  add_product(dense_gate_up_, product, cost);
  add_product(dense_down_, product, cost);
}

// Of some layers, on a rank that has `share` of the work of these tokens.
void CostModel::add_experts(double tokens, double share, double layers, StepCost& cost) const noexcept {
  if (!(tokens > 0)) return;
  StepCost layer;
  const auto chosen = static_cast<double>(std::max<int64_t>(model_.experts_per_token, 1));
  const double per_expert = std::min(1.0, chosen * share / local_experts_);
  const double touched = local_experts_ * (1 - std::pow(1 - per_expert, tokens));
  const double rows = tokens * chosen * share / std::max(touched, 1e-9);
  const ProductLoad product = product_load(rows, touched);
  add_product(gate_up_, product, layer);
  add_product(down_, product, layer);
  const double inner = as_double(model_.expert_intermediate) / strategy_.moe_tp_size;
  const double bytes = tokens * chosen * share * 2 * inner * model_.activation_bytes;
  layer[CostPart::rows] += bytes * row_bytes_.at(bytes);
  for (size_t part = 0; part < kNumCostParts; ++part) cost.seconds[part] += layers * layer.seconds[part];
}

void CostModel::add_head(const GroupLoad& load, StepCost& cost) const noexcept {
  const double rows = as_double(load.logits_rows);
  add_product(head_, product_load(rows), cost);
  const double bytes = as_double(load.tokens) / strategy_.tp_size * as_double(model_.hidden) *
                       (model_.activation_bytes + kBytesOfResidual);
  cost[CostPart::rows] += bytes * row_bytes_.at(bytes);
}

// What one rank of the group does by itself, in all layers.
StepCost CostModel::group_cost(const GroupLoad& load) const noexcept {
  StepCost cost;
  if (load.tokens <= 0) return cost;
  const double home = as_double(load.tokens) / strategy_.tp_size;
  add_attention(load, cost);
  for (double& seconds : cost.seconds) seconds *= as_double(model_.layers());
  StepCost rest;
  if (model_.dense_layers > 0) {
    add_dense(as_double(load.tokens), rest);
    for (double& seconds : rest.seconds) seconds *= as_double(model_.dense_layers);
  }
  if (model_.sparse_layers > 0) {
    StepCost router;
    if (model_.experts > 1 || travels_) add_product(router_, product_load(home), router);
    for (double& seconds : router.seconds) seconds *= as_double(model_.sparse_layers);
    rest += router;
    if (!travels_) add_experts(home, 1, as_double(model_.sparse_layers), rest);
  }
  add_head(load, rest);
  cost += rest;
  return cost;
}

void CostModel::add_phase(const Phase& phase, StepCost& cost) const noexcept {
  for (size_t part = 0; part < kNumCostParts; ++part) cost.seconds[part] += turns_ * phase.mean.seconds[part];
  cost[CostPart::imbalance] += std::max(0.0, phase.slowest - turns_ * phase.mean.total());
}

// Home tokens of the ranks of one replica of the experts.
double CostModel::tokens_of_replica(const StepLoad& load, int replica) const noexcept {
  const int ranks = strategy_.ep_size * strategy_.moe_tp_size;
  const int begin = replica * ranks;
  double tokens = 0;
  for (int rank = begin; rank < begin + ranks;) {
    const int group = rank / strategy_.tp_size;
    const int end = std::min(begin + ranks, (group + 1) * strategy_.tp_size);
    tokens += as_double(load.groups[static_cast<size_t>(group)].tokens) * (end - rank) / strategy_.tp_size;
    rank = end;
  }
  return tokens;
}

// Experts whose tokens travel, and the journey.
void CostModel::add_travel(const StepLoad& load, StepCost& cost) const noexcept {
  const double layers = as_double(model_.sparse_layers);
  const double hidden = as_double(model_.hidden);
  const double sum_row = padded(kBytesOfSum * (hidden + 1));
  const double sent_row =
      padded(model_.activation_bytes * hidden + kBytesOfChoice * as_double(model_.experts_per_token));
  const int ranks = strategy_.ep_size * strategy_.moe_tp_size;
  Phase phase;
  double most = 0, all = 0;
  for (int replica = 0; replica < strategy_.moe_dp_size; ++replica) {
    const double tokens = tokens_of_replica(load, replica);
    most = std::max(most, tokens);
    all += tokens;
    StepCost mean, busiest;
    add_experts(tokens, mean_share_, layers, mean);
    // Rows are written for each owner, sums cleared there, and added up at home.
    const double moved = tokens / ranks * owners_ * strategy_.moe_tp_size * (2 * sent_row + 4 * sum_row);
    mean[CostPart::rows] += layers * moved * row_bytes_.at(moved);
    phase.add(mean, 1.0 / strategy_.moe_dp_size);
    if (busiest_share_ <= mean_share_) continue;
    add_experts(tokens, busiest_share_, layers, busiest);
    phase.slowest = std::max(phase.slowest, busiest.total() + layers * moved * row_bytes_.at(moved));
  }
  add_phase(phase, cost);
  const double mean = all / strategy_.moe_dp_size;
  const auto seconds = [&](double row) {
    const double bytes = std::max(mean * travel_.contention, most) / ranks * others_ * row;
    return travel_.latency * travel_.contention + bytes * travel_.seconds_per_byte;
  };
  if (all > 0) {
    cost[CostPart::dispatch] += layers * seconds(sent_row);
    cost[CostPart::combine] += layers * seconds(sum_row);
  }
}

// Those of attention, dense layers and the head.
void CostModel::add_collectives(const StepLoad& load, StepCost& cost) const noexcept {
  if (strategy_.tp_size == 1) return;
  const auto tp = static_cast<double>(strategy_.tp_size);
  const double hidden = as_double(model_.hidden);
  const double from_others = (tp - 1) / tp;
  double most = 0, all = 0, most_rows = 0, all_rows = 0;
  for (const GroupLoad& group : load.groups) {
    most = std::max(most, as_double(group.tokens));
    all += as_double(group.tokens);
    most_rows = std::max(most_rows, as_double(group.logits_rows));
    all_rows += as_double(group.logits_rows);
  }
  const auto seconds = [&](const Link& link, double largest, double total, double bytes) {
    const double rows = std::max(largest, total / strategy_.dp_size * link.contention);
    return link.latency * link.contention + rows * from_others * bytes * link.seconds_per_byte;
  };
  const double times = as_double(model_.layers() + model_.dense_layers);
  const double row = padded(model_.activation_bytes * hidden);
  cost[CostPart::all_gather] += times * seconds(gather_, most, all, row);
  cost[CostPart::reduce_scatter] += times * seconds(scatter_, most, all, padded(kBytesOfSum * (hidden + 1)));
  if (!(all_rows > 0)) return;
  const double logits = kBytesOfLogit * as_double(model_.vocab);
  cost[CostPart::logits] += seconds(last_gather_, most_rows, all_rows, row) +
                            seconds(logits_, most_rows, all_rows, logits) +
                            2 * most_rows * logits * row_bytes_.at(2 * most_rows * logits);
}

// The first rank of each group samples.
void CostModel::add_sampling(const StepLoad& load, StepCost& cost) const noexcept {
  double most = 0, sum = 0, rows = 0;
  for (const GroupLoad& group : load.groups) {
    const double group_rows = as_double(group.logits_rows);
    const double seconds =
        group_rows > 0 ? group_rows * as_double(model_.vocab) * sampling_.at(group_rows) : 0;
    most = std::max(most, seconds);
    sum += seconds;
    rows += group_rows;
  }
  cost[CostPart::sampling] += std::max(most, machine_.shares_cores() ? sum * core_share_ : 0.0);
  if (rows > 0) cost[CostPart::overhead] += rows * row_overhead_.at(rows);
}

StepCost CostModel::step(const StepLoad& load) const noexcept {
  StepCost cost;
  Phase phase;
  StepCost last;
  for (size_t g = 0; g < load.groups.size(); ++g) {
    // Groups mostly do the same.
    if (g == 0 || !(load.groups[g] == load.groups[g - 1])) last = group_cost(load.groups[g]);
    phase.add(last, 1.0 / strategy_.dp_size);
  }
  add_phase(phase, cost);
  if (travels_) add_travel(load, cost);
  add_collectives(load, cost);
  add_sampling(load, cost);
  const double ops_of_attention = kOpsOfAttention + (machine_.shares_cores() ? kOpsOfCpu : 0);
  const bool routes = model_.experts > 1 || travels_;
  const double ops_of_sparse = ops_of_attention + kOpsOfDense +
                               (travels_ ? kOpsOfTravel
                                : routes ? kOpsOfRouting
                                         : 0);
  const double ops = as_double(model_.sparse_layers) * ops_of_sparse +
                     as_double(model_.dense_layers) * (ops_of_attention + kOpsOfDense) + kOpsOfStep;
  cost[CostPart::overhead] += step_seconds_ + turns_ * ops * op_seconds_;
  return cost;
}

double CostModel::weight_bytes_per_rank() const {
  return weight_bytes_of(strategy_.tp_size, strategy_.moe_tp_size, placement_.slots_per_rank());
}

double CostModel::weight_bytes_of(double tp, double moe_tp, double experts) const {
  const double hidden = as_double(model_.hidden);
  const double kv = std::max(1.0, as_double(model_.kv_heads) / tp);
  const double attention = 2 * (as_double(model_.query_heads) / tp + kv) * as_double(model_.head_dim) *
                           hidden * model_.linear_bytes;
  const double dense = 3 * as_double(model_.intermediate) / tp * hidden * model_.linear_bytes;
  const double sparse =
      experts * 3 * as_double(model_.expert_intermediate) / moe_tp * hidden * model_.linear_bytes +
      as_double(model_.experts) * hidden * model_.activation_bytes;
  const double vocab = as_double(model_.vocab) * hidden * (model_.activation_bytes + model_.head_bytes) / tp;
  return as_double(model_.layers()) * attention + as_double(model_.dense_layers) * dense +
         as_double(model_.sparse_layers) * sparse + vocab;
}

double CostModel::kv_bytes_per_token() const {
  const double heads = std::max(1.0, as_double(model_.kv_heads) / strategy_.tp_size);
  return as_double(model_.layers()) * 2 * heads * as_double(model_.head_dim) * model_.kv_bytes;
}

int64_t CostModel::kv_capacity(double bytes_per_rank) const {
  return static_cast<int64_t>(std::max(0.0, bytes_per_rank) / kv_bytes_per_token());
}

}  // namespace chorale::parallel
