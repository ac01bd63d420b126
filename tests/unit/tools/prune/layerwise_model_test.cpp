// The layer-by-layer path, on the bundled model.
#include "tools/prune/layerwise_model.h"

#include <random>

#include <gtest/gtest.h>

#include "base/thread_pool.h"
#include "engine/loaded_model.h"
#include "source_dir.h"
#include "tools/eval.h"

namespace chorale::tools {
namespace {

TEST(LayerwiseModel, ScoresTheBitsThatTheServedModelScores) {
  const std::filesystem::path folder = source_dir() / "models/tales-moe";
  std::mt19937 random(5);
  std::vector<int32_t> ids(3 * 64 + 29);  // the last window is a short one
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % 4096);
  const io::ModelConfig config = io::load_model_config(folder);
  const io::Checkpoint checkpoint = io::Checkpoint::open(folder);
  ThreadPool pool(2);
  for (const char* name : {"float32", "bfloat16"}) {
    engine::LoadOptions options;
    options.model_path = folder;
    options.dtype = name;
    options.max_total_tokens = 256;
    options.max_logits_rows = 64;
    options.chunked_prefill_size = 64;
    options.show_progress = false;
    engine::LoadedModel served = engine::LoadedModel::load(options);
    const EvalResult expected = evaluate(served.runner(), ids, {.window = 64, .chunk_size = 64});
    LayerwiseModel model(checkpoint, config, name == std::string("float32") ? DType::f32 : DType::bf16,
                         Stream(pool, select_instruction_set("auto")), 64);
    const EvalResult result = evaluate_layerwise(model, ids, 0);
    EXPECT_EQ(result.nll, expected.nll);
    EXPECT_EQ(result.tokens, expected.tokens);
  }
}

}  // namespace
}  // namespace chorale::tools
