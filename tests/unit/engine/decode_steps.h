// One sequence of the bundled model that decodes, for tests of what a step must not do.
#pragma once

#include <filesystem>
#include <span>
#include <vector>

#include "engine/loaded_model.h"
#include "engine/sample_rows.h"
#include "source_dir.h"

namespace chorale::engine {

// Room for DecodeSteps; one thread for each rank.
inline LoadOptions decode_options() {
  LoadOptions options;
  options.model_path = source_dir() / "models" / "tales-moe";
  options.threads = 1;
  options.max_total_tokens = 256;
  options.max_running_requests = 4;
  options.show_progress = false;
  return options;
}

// All data-parallel groups do the same. What the steps need is made at construction.
class DecodeSteps {
 public:
  explicit DecodeSteps(ModelRunner& runner)
      : runner_(runner),
        plans_(static_cast<size_t>(runner.num_dp_groups()), &plan_),
        sample_plans_(plans_.size(), &sample_plan_),
        sampled_(plans_.size()) {
    plan_.token_ids = {5};
    plan_.chunks = {{0, 1, 0, 0, 1}};
    plan_.block_tables = {0};
    plan_.logits_tokens = {0};
    add_choice(
        {.params = params_, .prompt = plan_.token_ids, .output = {}, .eos_token_ids = {}, .allowed = {}},
        runner.vocab_size(), sample_plan_);
  }
  DecodeSteps(const DecodeSteps&) = delete;
  DecodeSteps& operator=(const DecodeSteps&) = delete;

  // The steps at the positions [begin, end), which lie in one block.
  void run(int32_t begin, int32_t end) {
    for (int32_t position = begin; position < end; ++position) {
      plan_.chunks[0].first_position = position;
      runner_.forward(plans_);
      runner_.sample(sample_plans_, sampled_);
    }
  }

 private:
  ModelRunner& runner_;
  StepPlan plan_;
  SamplingParams params_;
  SamplePlan sample_plan_;
  std::vector<const StepPlan*> plans_;
  std::vector<const SamplePlan*> sample_plans_;
  std::vector<SampledStep> sampled_;
};

}  // namespace chorale::engine
