// Replaces every layer of experts by one dense expert, from the first layer to the last, each fitted under
// the layers that are replaced already.
//
// Two residual streams run side by side: the original model's, and that of the model with the layers done so
// far replaced. A layer's expert learns to bring the second to where the first is after the layer, and so
// also makes up for the errors of the layers before.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "tools/prune/calibrate.h"
#include "tools/prune/fit_expert.h"
#include "tools/prune/layerwise_model.h"
#include "tools/prune/merged_expert.h"

namespace chorale::tools {

// What the fit minimises; see fit_expert.h.
enum class FitLoss {
  output,  // the error of each layer's output
  logits,  // in the later half of the layers also the divergence of the predictions
};

struct LayerFitOptions {
  int64_t width = 0;
  int64_t steps = kFitSteps;
  FitLoss loss = FitLoss::logits;
  uint64_t seed = 0;
  std::function<void(uint64_t)>
      on_work;  // called with units of work done, see work(); what it throws ends it
};

class LayerFitter {
 public:
  // token_ids: whole windows of the model's; `dtype` is that of the new weights. The model must outlive this.
  LayerFitter(LayerwiseModel& model, std::span<const int32_t> token_ids, DType dtype,
              const LayerFitOptions& options);

  // The expert of a sparse layer: call it for each, in order.
  MergedExpert fit(int64_t layer);

  // The error of each layer done so far, [layers]; 0 for the others.
  const std::vector<double>& relative_errors() const { return relative_errors_; }
  const std::vector<ExpertScores>& scores() const { return scores_; }

  // All units of work, in about equal time.
  static uint64_t work(const io::ModelConfig& config, const LayerFitOptions& options);

 private:
  // lm_head, and what the original model predicts.
  struct Predictions {
    PackedRhs by_vocab, by_hidden;
    Buffer norm_memory;
    LogitsTarget target;
  };

  void run_original();
  bool weighs_predictions(int64_t layer) const;
  void pass_dense_layer(int64_t layer);
  MergedExpert replace_layer(int64_t layer);
  void choose_candidates(int64_t layer, const std::vector<double>& energy);
  void advance_student(const model::LayerWeights& original, int64_t layer, const MergedExpert& expert);
  void done(uint64_t units) const;

  LayerwiseModel& model_;
  std::vector<int32_t> token_ids_;
  DType dtype_;
  LayerFitOptions options_;
  io::ModelConfig fitted_config_;
  int64_t next_layer_ = 0;
  Arena arena_;
  Tensor original_, student_;             // float32 [M, H]: the two residual streams
  Tensor inputs_, targets_;               // float32 [M, H]: of the layer at hand
  Tensor final_hidden_, expected_heads_;  // float32 [M, H]; see LogitsTarget
  std::unique_ptr<Predictions> predictions_;
  Arena candidates_;
  Tensor candidate_gates_, candidate_ups_;  // float32 [C, H]
  ExpertScorer scorer_;
  std::vector<double> relative_errors_;
  std::vector<ExpertScores> scores_;
};

}  // namespace chorale::tools
