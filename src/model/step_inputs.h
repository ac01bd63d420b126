// What the model has to know of a step, in device memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/stream.h"
#include "base/tensor.h"
#include "kernels/attention.h"

namespace chorale::model {

// The largest step that buffers are made for.
struct StepLimits {
  int64_t max_tokens = 0;
  int64_t max_segments = 0;      // sequences of one step
  int64_t max_table_blocks = 0;  // entries of all block tables together
  int64_t max_logits_rows = 0;
};

// A tensor-parallel group shares the tokens of a step. Every token has one home rank, which holds its row of
// the residual stream; a rank's home tokens are neighbours.
struct Home {
  std::span<const int64_t> tokens_of;       // home tokens of each rank of the TP group
  std::span<const int64_t> logits_rows_of;  // how many of them have their logits wanted
  int64_t first = 0;                        // this rank's first home token, and how many there are
  int64_t count = 0;
};

// Views of one step: of the whole TP group where nothing else is said.
struct StepInputs {
  Tensor token_ids;         // int32 [1, T]
  Tensor sampled_rows;      // int32 [1, T]: as HostStep has it; empty: all ids are known
  Tensor positions;         // int32 [1, T]
  Tensor home_logits_rows;  // int32 [1, .]: this rank's home tokens whose logits are wanted, counted from its
                            // first
  int64_t num_logits_rows = 0;   // L
  int64_t most_home_tokens = 0;  // no rank of any group has more in this step
  AttentionBatch batch;
  Home home;
  int64_t num_tokens() const { return token_ids.columns(); }
};

// A segment of one sequence, as the host plans it.
struct HostSegment {
  int64_t first_token = 0;
  int64_t num_tokens = 0;
  int64_t first_position = 0;
  int64_t first_block = 0;  // where its block table starts in block_tables
};

struct HostStep {
  std::span<const int32_t> token_ids;
  // [tokens] or empty: which row that was sampled last gives the token; -1: its id stands in token_ids.
  std::span<const int32_t> sampled_rows;
  std::span<const HostSegment> segments;
  std::span<const int32_t> block_tables;
  std::span<const int32_t> logits_tokens;
  // AttentionBatch::block_tables shall have so many entries, if that is more; no segment has those behind its
  // own.
  int64_t min_table_blocks = 0;
  int64_t most_tokens = 0;  // no data-parallel group has more in this step; 0: those of the limits
};

// Owns the memory of a step's inputs on one rank of a tensor-parallel group.
class StepBuffers {
 public:
  StepBuffers(const StepLimits& limits, int64_t tp_size, int64_t tp_rank, Device device);
  static size_t bytes(const StepLimits& limits);  // on the device

  // Copies the step once, on a stream of the device, always the same one; the views are valid until the next
  // call, whose copies come after all that was given to the stream. The step itself may go at once. Waits
  // until the copies of the call before the last are done. A step beyond the limits is a programmer's fault.
  StepInputs upload(const Stream& stream, const HostStep& step);

 private:
  // While copies from one of them are under way, the host writes into the other.
  static constexpr size_t kStagings = 2;
  // A vector on the device, and where the host writes it: the same memory where it may.
  struct StagedVector {
    Tensor device;
    std::array<Tensor, kStagings> host;
  };
  StagedVector take_vector(int64_t n);
  Tensor send(const Stream& stream, const StagedVector& vector, int64_t n) const;
  Tensor fill(const Stream& stream, const StagedVector& vector, std::span<const int32_t> source) const;
  void write_segments(const Stream& stream, std::span<const HostSegment> segments, StepInputs& in) const;
  void split_tokens(int64_t num_tokens);
  void split_logits_rows(std::span<const int32_t> logits_tokens);

  int64_t tp_rank_;
  int64_t max_tokens_;
  std::vector<int64_t> tokens_of_, logits_rows_of_;  // [tp_size]
  std::vector<int32_t> home_logits_tokens_;
  Arena arena_;
  std::optional<Arena> staging_;  // absent where the host may write to the device's memory
  StagedVector token_ids_, sampled_rows_, positions_, logits_rows_, segments_, block_tables_;
  std::array<Event, kStagings> sent_;  // the copies from each
  size_t turn_ = 0;                    // which is written now
};

}  // namespace chorale::model
