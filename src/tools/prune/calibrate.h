// Measures which experts matter: runs a text through the model, layer by layer, and scores the experts.
//
// frequency and router weights are counts and sums over the text's tokens; reap is the router-weighted expert
// activation of Cerebras REAP (arXiv 2510.13999): the mean, over the tokens that an expert gets, of the gate
// weight times the norm of the expert's output.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "tools/prune/expert_scores.h"
#include "tools/prune/layerwise_model.h"

namespace chorale::tools {

// Scores one layer from what its steps show. Deterministic: it sums in the order of tokens.
class ExpertScorer {
 public:
  // with_reap: the outputs of the experts are computed once more, one by one.
  ExpertScorer(const io::ModelConfig& config, const Stream& stream, bool with_reap);

  // Tells which layer's steps follow. The layer must outlive them.
  void begin(const model::LayerWeights& layer);
  void observe(const ExpertStep& step);
  ExpertScores finish();

 private:
  void measure_outputs(const ExpertStep& step, int64_t num_rows);

  const io::ModelConfig& config_;
  Stream stream_;
  bool with_reap_;
  const model::LayerWeights* layer_ = nullptr;
  ExpertScores scores_;
  std::vector<int32_t> in_order_;  // 0, 1, 2, ...
  std::vector<double> norms_;      // one for each row's output
};

// The scores of every layer [layers], empty ones for dense layers. token_ids: whole windows, all ids in the
// vocabulary. `on_layer` is called after each layer, where set; what it throws ends the work.
std::vector<ExpertScores> calibrate(LayerwiseModel& model, std::span<const int32_t> token_ids, bool with_reap,
                                    const std::function<void()>& on_layer = nullptr);

}  // namespace chorale::tools
