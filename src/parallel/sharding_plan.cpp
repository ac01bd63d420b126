#include "parallel/sharding_plan.h"

#include "base/error.h"

namespace chorale::parallel {
namespace {

constexpr ShardingRule kRules[] = {
    {"model.embed_tokens.weight", Split::vocab_rows, ChunkUnit::vocab},
    {"lm_head.weight", Split::output, ChunkUnit::vocab},
    {"*.self_attn.q_proj.*", Split::output, ChunkUnit::query_heads},
    {"*.self_attn.k_proj.*", Split::output, ChunkUnit::kv_heads},
    {"*.self_attn.v_proj.*", Split::output, ChunkUnit::kv_heads},
    {"*.self_attn.o_proj.weight", Split::input, ChunkUnit::query_heads},
    {"*.self_attn.o_proj.bias", Split::replicated, ChunkUnit::none},
    {"*.mlp.experts.*.gate_proj.weight", Split::expert_output, ChunkUnit::expert_intermediate},
    {"*.mlp.experts.*.up_proj.weight", Split::expert_output, ChunkUnit::expert_intermediate},
    {"*.mlp.experts.*.down_proj.weight", Split::expert_input, ChunkUnit::expert_intermediate},
    {"*.mlp.gate_proj.weight", Split::output, ChunkUnit::intermediate},
    {"*.mlp.up_proj.weight", Split::output, ChunkUnit::intermediate},
    {"*.mlp.down_proj.weight", Split::input, ChunkUnit::intermediate},
    {"*.mlp.gate.weight", Split::replicated, ChunkUnit::none},
    {"*norm.weight", Split::replicated, ChunkUnit::none},
};

bool matches(std::string_view pattern, std::string_view name) {
  const size_t star = pattern.find('*');
  if (star == std::string_view::npos) return pattern == name;
  if (name.substr(0, star) != pattern.substr(0, star)) return false;
  const std::string_view rest = pattern.substr(star + 1);
  for (size_t from = star; from <= name.size(); ++from) {
    if (matches(rest, name.substr(from))) return true;
  }
  return false;
}

int64_t size_of_unit(ChunkUnit unit, const ShardedSizes& sizes) {
  switch (unit) {
    case ChunkUnit::none:
      return 1;
    case ChunkUnit::vocab:
      return sizes.vocab;
    case ChunkUnit::query_heads:
      return sizes.query_heads;
    case ChunkUnit::kv_heads:
      return sizes.kv_heads;
    case ChunkUnit::intermediate:
      return sizes.intermediate;
    case ChunkUnit::expert_intermediate:
      return sizes.expert_intermediate;
  }
  return 1;
}

}  // namespace

std::string_view name_of(Split split) {
  switch (split) {
    case Split::replicated:
      return "replicated";
    case Split::vocab_rows:
      return "by vocabulary row";
    case Split::output:
      return "by output";
    case Split::input:
      return "by input";
    case Split::expert_output:
      return "by expert, then by output";
    case Split::expert_input:
      return "by expert, then by input";
  }
  return "?";
}

std::span<const ShardingRule> sharding_rules() {
  return kRules;
}

const ShardingRule& rule_for(std::string_view weight_name) {
  for (const ShardingRule& rule : kRules) {
    if (matches(rule.pattern, weight_name)) return rule;
  }
  CHORALE_CHECK(false, "no sharding rule for {}", weight_name);
  return kRules[0];
}

int64_t canonical_chunks(int64_t size, int64_t max_chunks) {
  CHORALE_CHECK(size >= 1 && max_chunks >= 1, "size {} in {} chunks", size, max_chunks);
  int64_t chunks = max_chunks;
  while (size % chunks != 0) chunks /= 2;
  return chunks;
}

int64_t ShardedSizes::chunks(int64_t size) const {
  return canonical_chunks(size, max_chunks);
}

int64_t num_chunks(const ShardingRule& rule, const ShardedSizes& sizes) {
  return rule.unit == ChunkUnit::none ? 1 : sizes.chunks(size_of_unit(rule.unit, sizes));
}

}  // namespace chorale::parallel
