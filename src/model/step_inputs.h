// What the model has to know of a step, in device memory.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/tensor.h"
#include "kernels/attention.h"

namespace chorale::model {

// The largest step that buffers are made for.
struct StepLimits {
  int64_t max_tokens = 0;
  int64_t max_chunks = 0;        // sequences of one step
  int64_t max_table_blocks = 0;  // entries of all block tables together
  int64_t max_logits_rows = 0;
};

// Views of one step. T tokens, R rows of logits.
struct StepInputs {
  Tensor token_ids;    // int32 [1, T]
  Tensor positions;    // int32 [1, T]
  Tensor logits_rows;  // int32 [1, R]: the tokens whose logits are wanted
  AttentionBatch batch;
  int64_t num_tokens() const { return token_ids.columns(); }
};

// A chunk of one sequence, as the host plans it.
struct HostChunk {
  int64_t first_token = 0;
  int64_t num_tokens = 0;
  int64_t first_position = 0;
  int64_t first_block = 0;  // of its block table in block_tables
};

struct HostStep {
  std::span<const int32_t> token_ids;
  std::span<const HostChunk> chunks;
  std::span<const int32_t> block_tables;
  std::span<const int32_t> logits_tokens;
};

// Owns the device memory of a step's inputs.
class StepBuffers {
 public:
  explicit StepBuffers(const StepLimits& limits);
  static size_t bytes(const StepLimits& limits);

  // Copies the step once; the views are valid until the next call. A step beyond the limits is a programmer's
  // fault.
  StepInputs upload(const HostStep& step);

 private:
  Arena arena_;
  Tensor token_ids_, positions_, logits_rows_, chunks_, block_tables_;
};

}  // namespace chorale::model
