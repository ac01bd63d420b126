// Sampling on one rank: the memory that it takes on the rank's device, made once for the largest step.
#pragma once

#include <cstdint>

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

  // Samples logits float32 [plan.num_rows(), V] on a stream of the device, always the same one. The plan must
  // stay as it is until collect(). One beyond the limits is a programmer's fault. Neither allocates.
  void start(const Stream& stream, const Tensor& logits, const SamplePlan& plan);
  // Waits for what came of the last start(); valid until the next one, before which it must be called.
  SampledStep collect(const Stream& stream);
  // The tokens of the last start(), int32 [1, most rows], on the device in the stream's order; -1 for a row
  // that has none.
  const Tensor& tokens() const { return tokens_; }

 private:
  void count_texts(const Stream& stream, const SamplePlan& plan);
  void count_tokens(const Stream& stream, std::span<const int32_t> tokens, bool in_prompt,
                    const Tensor& counts);
  SampleRows upload(const Stream& stream, const Tensor& logits, const SamplePlan& plan);
  void download(const Stream& stream, const SampledRows& sampled);

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
  // What came of the rows, in memory of the host that the device copies to by itself.
  Arena host_arena_;
  Tensor host_tokens_, host_statuses_, host_logprobs_, host_top_tokens_;
  SampledStep sampled_;  // views of these
  Event done_;
};

}  // namespace chorale::engine
