// The sharding plan: for each weight of a checkpoint, by its name, how it is split. Pure arithmetic.
//
// A dimension that may be split over tensor-parallel ranks is cut into canonical chunks, and a rank owns
// whole chunks. The number of chunks depends on the model, and on the flag --max-tp-size, alone, so what a
// matrix product adds up per chunk is the same for any number of ranks.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace chorale::parallel {

enum class Split {
  replicated,     // every rank has all of it
  vocab_rows,     // by row of the embedding
  output,         // column-parallel: by output
  input,          // row-parallel: by input; the ranks' results are added up
  expert_output,  // by owner of the expert, and within it as `output`
  expert_input,   // by owner of the expert, and within it as `input`
};
std::string_view name_of(Split split);

// What the chunks of a split dimension are made of.
enum class ChunkUnit { none, vocab, query_heads, kv_heads, intermediate, expert_intermediate };

struct ShardingRule {
  std::string_view pattern;  // what the weight's name must be; * stands for any text
  Split split = Split::replicated;
  ChunkUnit unit = ChunkUnit::none;
};

// The table. The first rule that matches counts.
std::span<const ShardingRule> sharding_rules();

// The rule for a weight; a name that no rule matches is a programmer's fault.
const ShardingRule& rule_for(std::string_view weight_name);

// Chunks of a dimension at most, and what --max-tp-size is without the flag.
inline constexpr int64_t kMaxChunks = 8;

// The sizes of a model that are split.
struct ShardedSizes {
  int64_t vocab = 0;
  int64_t query_heads = 0;
  int64_t kv_heads = 0;
  int64_t intermediate = 0;
  int64_t expert_intermediate = 0;
  int64_t max_chunks = kMaxChunks;  // a power of two: so many ranks may split a dimension, at most

  // Of a dimension of this size.
  int64_t chunks(int64_t size) const;
};

// Chunks that a dimension of this size is cut into: max_chunks, or the largest power of two below that
// divides it.
int64_t canonical_chunks(int64_t size, int64_t max_chunks);

// Chunks of the dimension that the rule splits; 1 when it splits none.
int64_t num_chunks(const ShardingRule& rule, const ShardedSizes& sizes);

}  // namespace chorale::parallel
