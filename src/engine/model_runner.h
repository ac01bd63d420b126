// The engine's view of a model: something that runs one step over a mixed batch and samples tokens.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "comm/communicator.h"
#include "engine/sample_plan.h"
#include "kernels/shapes.h"
#include "parallel/expert_placement.h"

namespace chorale::engine {

// Tokens of one KV block on a CPU. Attention walks the cache in blocks of a size that its backend sets,
// aligned to absolute positions, so it is part of the numerics contract and not an option.
inline constexpr int64_t kBlockTokens = kKvBlockTokens;

// A contiguous run of one sequence's tokens within a step: a prefill chunk, or one decode token.
struct SequenceChunk {
  int64_t first_token = 0;        // index of its first token in StepPlan::token_ids
  int64_t num_tokens = 0;         // new tokens of this step
  int64_t first_position = 0;     // absolute position of the first of them: tokens before it are in the cache
  int64_t first_block_index = 0;  // where its block table starts in StepPlan::block_tables
  int64_t num_blocks = 0;         // enough for first_position + num_tokens
};

// One step, planned on the host: everything the model has to know, in token ids and block ids.
struct StepPlan {
  std::vector<int32_t> token_ids;  // [tokens], all chunks one after the other
  // [tokens] or empty. Not negative: the token is the one that the last start_sampling() chooses for this row
  // of its group, 0 where it chooses none, and its place in token_ids means nothing.
  std::vector<int32_t> sampled_rows;
  std::vector<SequenceChunk> chunks;
  std::vector<int32_t> block_tables;   // block ids of all chunks' sequences, concatenated
  std::vector<int32_t> logits_tokens;  // indices into token_ids whose logits are wanted, ascending
  int64_t num_tokens() const { return static_cast<int64_t>(token_ids.size()); }
};

// The keys and values of a block that go from one runner's cache to another's.
struct KvBlockMove {
  int32_t from_group = 0;  // data-parallel groups
  int32_t from_block = 0;
  int32_t to_group = 0;
  int32_t to_block = 0;
  friend bool operator==(const KvBlockMove&, const KvBlockMove&) = default;
};

class ModelRunner {
 public:
  virtual ~ModelRunner() = default;
  virtual int64_t vocab_size() const = 0;
  // Tokens of one KV block.
  virtual int64_t block_tokens() const { return kBlockTokens; }
  // Data-parallel groups, each with sequences and a KV cache of its own.
  virtual int64_t num_dp_groups() const { return 1; }

  // A step is three calls, in this order: forward(), start_sampling(), collect(). Not thread-safe, and
  // neither is anything below that does not say so.

  // Computes one step of all groups together: plans[g] is group g's and may have no tokens. The keys and
  // values of all tokens are then in the caches. Within one plan, no two chunks write the same block. Where
  // runs_ahead(), this returns before it is done; the plans must stay as they are until the step was
  // collected, or until synchronize().
  virtual void forward(std::span<const StepPlan* const> plans) = 0;
  // Samples the rows of logits of the last forward(), where they are: plans[g] is for those of group g, and
  // must stay as it is until collect().
  virtual void start_sampling(std::span<const SamplePlan* const> plans) = 0;
  // Waits for what came of the last start_sampling(). sampled[g] is set, valid until the next one.
  virtual void collect(std::span<SampledStep> sampled) = 0;
  // The last two.
  void sample(std::span<const SamplePlan* const> plans, std::span<SampledStep> sampled);

  // Whether forward() may be called for the next step before collect() of this one, with
  // StepPlan::sampled_rows. Any failure of the next step is told by a later call.
  virtual bool runs_ahead() const { return false; }
  // Returns when nothing is under way any more. Throws what has failed.
  virtual void synchronize() {}
  // KV blocks of each group beyond those that it is known to have, for steps that are planned ahead.
  virtual int64_t num_spare_blocks() const { return 0; }

  // The first group's rows of logits of the last forward(): [logits_tokens of its plan, vocab_size],
  // row-major, valid until the next call of forward(). Waits for them. For tools.
  virtual std::span<const float> logits() = 0;

  // Runs one step of the first group alone, and gives its logits().
  std::span<const float> run(const StepPlan& plan);

  // How many tokens were routed to each logical expert since the start, of all groups: [layers * experts], or
  // nothing for a model without experts. Between steps, on the thread that runs them.
  virtual std::vector<int64_t> expert_load() { return {}; }
  // The same for the tokens at home on each rank, [world], and what each rank has sent. Between steps.
  // Nothing for ranks of other processes.
  virtual std::vector<std::vector<int64_t>> expert_load_by_rank() const { return {}; }
  virtual std::vector<comm::Traffic> traffic() const { return {}; }

  // Where experts lay at first, where they may move while requests run: tokens travel to ranks that own
  // different ones. Else null.
  virtual const parallel::ExpertPlacement* movable_experts() const { return nullptr; }
  // Between steps, before place_experts(): whether that can be done at once with the same arguments. The
  // first call begins to bring the weights that it needs to where they are needed, while steps run on;
  // further calls ask how that stands. Throws Error where they cannot be had; the experts then lie as they
  // lay, and the runner goes on unless failure() tells otherwise.
  virtual bool prepare_experts(int /*layer*/, const parallel::ExpertPlacement& /*placement*/) { return true; }
  // Between steps, of which one may be under way: in those that begin later the experts of a sparse layer
  // lie as in `placement`, which has the shape of movable_experts(). No result differs by a bit. Returns how
  // many bytes of weights were moved for it. Waits for what prepare_experts() was not called for.
  virtual uint64_t place_experts(int /*layer*/, const parallel::ExpertPlacement& /*placement*/) {
    CHORALE_CHECK(false, "no expert can move here");
  }

  // Copies keys and values out of the caches of `from`, a runner of the same model, device and cache dtype
  // under any strategy, in which nothing is under way. Returns the bytes that were written. Throws Error,
  // after which this runner is of no use and `from` is as it was.
  virtual uint64_t copy_kv(ModelRunner& /*from*/, std::span<const KvBlockMove> /*moves*/) {
    throw_error("the caches of these ranks cannot be moved to others");
  }

  // Why no further step can be run, where that is known between steps: a rank has died. Thread-safe.
  virtual std::optional<std::string> failure() const { return std::nullopt; }
};

}  // namespace chorale::engine
