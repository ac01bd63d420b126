// Sampling on one rank: the memory that it takes on the rank's device, made once for the largest step.
#pragma once

#include <cstdint>
#include <vector>

#include "base/stream.h"
#include "base/tensor.h"
#include "engine/sample_plan.h"
#include "io/model_config.h"
#include "model/step_inputs.h"

namespace chorale::engine {

struct SampleLimits {
  int64_t vocab_size = 0;  // 1 to kMaxVocabulary
  int64_t max_rows = 0;    // of one step
  int64_t max_texts = 0;   // that are counted at once
  int64_t max_places = 1;  // rows that are worked on at once
  DeviceKind device = DeviceKind::cpu;
};

// For the steps of a data-parallel group.
SampleLimits sample_limits(const io::ModelConfig& config, const model::StepLimits& limits, DeviceKind device);

// Used by one thread at a time.
class RankSampler {
 public:
  RankSampler(const SampleLimits& limits, Device device);
  static size_t bytes(const SampleLimits& limits);  // on the device; pure arithmetic

  // Samples logits float32 [plan.num_rows(), V] on a stream of the device, and waits for what comes of it. A
  // plan beyond the limits is a programmer's fault. Does not allocate.
  SampledStep sample(const Stream& stream, const Tensor& logits, const SamplePlan& plan);

 private:
  void count_texts(const Stream& stream, const SamplePlan& plan);
  void count_tokens(const Stream& stream, std::span<const int32_t> tokens, bool in_prompt,
                    const Tensor& counts);
  SampleRows upload(const Stream& stream, const Tensor& logits, const SamplePlan& plan);
  SampledStep download(const Stream& stream, const SampledRows& sampled);

  const SampleLimits limits_;
  Arena arena_;
  Tensor scratch_;       // uint8 [places, bytes of a row]
  Tensor counts_;        // int32 [texts, V]
  Tensor text_tokens_;   // int32 [1, so many are counted at once]
  Tensor params_;        // uint8 [rows, sizeof(SampleParams)]
  Tensor bias_offsets_;  // int32 [1, rows + 1]
  Tensor bias_tokens_;   // int32 [1, most of all rows], and float32
  Tensor biases_;
  Tensor allowed_;     // int32 [rows, words of V bits]
  Tensor tokens_;      // int32 [1, rows]
  Tensor statuses_;    // int32 [1, rows]
  Tensor logprobs_;    // float32 [rows, 1 + kMaxTopLogprobs]
  Tensor top_tokens_;  // int32 [rows, kMaxTopLogprobs]
  // What came of the rows, on the host.
  std::vector<int32_t> host_tokens_, host_statuses_, host_top_tokens_;
  std::vector<float> host_logprobs_;
};

}  // namespace chorale::engine
