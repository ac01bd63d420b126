// Reference of kernels/sample.h.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "kernels/sample.h"

namespace chorale::ref {

// One row, with its lists.
struct SampleRow {
  std::vector<float> logits;
  SampleParams params;
  std::vector<std::pair<int32_t, float>> bias;
  std::vector<std::pair<int32_t, int32_t>> counts;
  std::vector<bool> allowed;  // when params.is_masked
};

struct SampledRow {
  SampleStatus status = SampleStatus::ok;
  int32_t token = -1;
  float logprob = 0;                                // when num_top >= 0 and the status is ok
  std::vector<std::pair<int32_t, float>> logprobs;  // of the num_top most likely tokens, or all there are
};

// By the definition: a full sort, and each filter in turn. The same bits.
SampledRow sample(const SampleRow& row);

void place_tokens(std::span<const int32_t> sampled, std::span<const int32_t> rows,
                  std::span<int32_t> token_ids);

}  // namespace chorale::ref
