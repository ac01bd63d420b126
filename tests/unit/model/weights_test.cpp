#include "model/weights.h"

#include <cmath>
#include <filesystem>
#include <set>
#include <string>

#include <gtest/gtest.h>

#include "base/error.h"
#include "model/weight_loader.h"
#include "unit/model/loaded.h"
#include "unit/temporary_folder.h"

namespace chorale::model {
namespace {

io::ModelConfig small_config() {
  io::ModelConfig c;
  c.vocab_size = 100;
  c.hidden_size = 48;
  c.num_hidden_layers = 3;
  c.num_attention_heads = 6;
  c.num_key_value_heads = 3;
  c.head_dim = 10;
  c.intermediate_size = 50;
  c.moe_intermediate_size = 24;
  c.num_experts = 5;
  c.num_experts_per_tok = 2;
  c.mlp_only_layers = {1};
  c.attention_bias = true;
  return c;
}

TEST(WeightPlan, NamesEveryTensorOnceAndPlacesNoTwoTogether) {
  const io::ModelConfig config = small_config();
  const WeightPlan plan = plan_weights(config, DType::bf16, whole_model(config));
  std::set<std::string> names;
  for (const WeightPlace& place : plan.places) {
    EXPECT_TRUE(names.insert(place.name).second) << place.name;
    EXPECT_LT(place.offset, plan.bytes);
    EXPECT_EQ(place.offset % 64, 0U);
  }
  // 2 sparse layers of a router and 5 experts, a dense one, attention with biases, norms, and the three of
  // the model.
  EXPECT_EQ(names.size(), 2U * (1 + 5 * 3) + 3 + 3 * (4 + 4 + 2 + 2) + 3);
  EXPECT_TRUE(names.contains("model.layers.2.mlp.experts.4.up_proj.weight"));
  EXPECT_TRUE(names.contains("model.layers.1.mlp.gate_proj.weight"));
  EXPECT_FALSE(names.contains("model.layers.1.mlp.gate.weight"));
}

TEST(WeightPlan, ChunksFollowTheShardingPlan) {
  const io::ModelConfig config = small_config();
  Buffer memory(plan_weights(config, DType::f32, whole_model(config)).bytes);
  const ModelWeights w = bind_weights(config, DType::f32, whole_model(config), memory);
  EXPECT_EQ(w.layers[0].attention.q_proj.layout.n_chunks, 2);  // 6 heads
  EXPECT_EQ(w.layers[0].attention.k_proj.layout.n_chunks, 1);  // 3 heads
  EXPECT_EQ(w.layers[0].attention.o_proj.layout.k_chunks, 2);
  EXPECT_EQ(w.layers[0].attention.o_proj.layout.n_chunks, 1);
  EXPECT_EQ(w.layers[0].feed_forward.gate_up_layout.n_chunks, 8);  // 24
  EXPECT_EQ(w.layers[0].feed_forward.down_layout.k_chunks, 8);
  EXPECT_EQ(w.layers[1].feed_forward.down_layout.k_chunks, 2);  // 50
  EXPECT_FALSE(w.layers[1].feed_forward.is_sparse());
  EXPECT_EQ(w.layers[0].feed_forward.gate_up.size(), 5U);
}

TEST(WeightPlan, TiedEmbeddingsHaveTwoPlaces) {
  io::ModelConfig config = small_config();
  config.tie_word_embeddings = true;
  int places = 0;
  for (const WeightPlace& place : plan_weights(config, DType::bf16, whole_model(config)).places) {
    places += place.name == "model.embed_tokens.weight" ? 1 : 0;
    EXPECT_NE(place.name, "lm_head.weight");
  }
  EXPECT_EQ(places, 2);
}

TEST(RandomWeights, DependOnTheSeedAloneAndLookUntrained) {
  const io::ModelConfig config = small_config();
  const WeightPlan plan = plan_weights(config, DType::f32, whole_model(config));
  const auto fill = [&](uint64_t seed, int threads) {
    Buffer buffer(plan.bytes);
    ThreadPool pool(threads);
    ProgressBar progress("", plan.bytes, false);
    fill_random_weights(plan, seed, buffer, pool, progress);
    return buffer;
  };
  const Buffer a = fill(1, 1);
  const Buffer b = fill(1, 3);
  const Buffer c = fill(2, 3);
  EXPECT_EQ(std::memcmp(a.data(), b.data(), plan.bytes), 0);
  EXPECT_NE(std::memcmp(a.data(), c.data(), plan.bytes), 0);
  const ModelWeights w = bind_weights(config, DType::f32, whole_model(config), a);
  double squares = 0;
  for (int64_t i = 0; i < w.embed_tokens.size(); ++i) squares += std::pow(w.embed_tokens.data<float>()[i], 2);
  EXPECT_NEAR(std::sqrt(squares / static_cast<double>(w.embed_tokens.size())), 0.02, 0.001);
  EXPECT_NEAR(w.norm.data<float>()[5], 1.0F, 0.04F);
}

TEST(LoadWeights, AFileThatIsShortenedMeanwhileIsAnErrorThatNamesIt) {
  const TemporaryFolder folder;
  std::filesystem::copy(bundled_model(), folder.path());
  const io::ModelConfig config = io::load_model_config(folder.path());
  const std::filesystem::path shard = folder / "model-00002-of-00003.safetensors";
  const io::Checkpoint checkpoint = io::Checkpoint::open(folder.path());
  check_tensors(checkpoint, config);
  const WeightPlan plan = plan_weights(config, DType::bf16, whole_model(config));
  const Buffer memory(plan.bytes);
  ThreadPool pool(2);
  const auto load = [&] {
    ProgressBar progress("", plan.bytes, false);
    load_weights(checkpoint, plan, memory, pool, progress);
  };
  EXPECT_NO_THROW(load());
  std::filesystem::resize_file(shard, std::filesystem::file_size(shard) / 2);
  try {
    load();
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).find(shard.string() + ": cannot read at byte "), 0U) << error.what();
  }
}

TEST(CheckTensors, TheBundledModelPassesAndAnotherConfigNamesWhatIsMissing) {
  const io::Checkpoint checkpoint = io::Checkpoint::open(bundled_model());
  io::ModelConfig config = io::load_model_config(bundled_model());
  EXPECT_NO_THROW(check_tensors(checkpoint, config));
  config.num_experts = 17;
  try {
    check_tensors(checkpoint, config);
    FAIL() << "expected an error";
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("model.layers.0.mlp.gate.weight"), std::string::npos) << text;
    EXPECT_NE(text.find("[17, 256]"), std::string::npos) << text;
    EXPECT_NE(text.find("[16, 256]"), std::string::npos) << text;
  }
}

TEST(RandomModel, ChunksDoNotChangeABit) {
  io::ModelConfig config = small_config();
  config.max_position_embeddings = 512;
  for (const auto& [device, dtype] : {std::pair{"cpu", DType::bf16}, std::pair{"cpu", DType::f32},
                                      std::pair{"ref", DType::bf16}, std::pair{"ref", DType::f32}}) {
    Loaded loaded(config, dtype, nullptr, device);
    std::vector<int32_t> ids;
    for (int32_t i = 0; i < 101; ++i) ids.push_back(i * 37 % 100);
    const std::vector<float> whole = loaded.logits(ids, 101);
    for (const int64_t chunk : {1, 7, 32, 50}) EXPECT_EQ(loaded.logits(ids, chunk), whole) << chunk;
    for (const float x : whole) ASSERT_TRUE(std::isfinite(x));
  }
}

}  // namespace
}  // namespace chorale::model
