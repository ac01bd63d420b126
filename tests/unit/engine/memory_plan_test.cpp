#include "engine/memory_plan.h"

#include <string>

#include <gtest/gtest.h>

#include "base/error.h"
#include "engine/loaded_model.h"
#include "engine/model_runner.h"

namespace chorale::engine {
namespace {

io::ModelConfig qwen3_30b() {
  io::ModelConfig c;
  c.vocab_size = 151936;
  c.hidden_size = 2048;
  c.num_hidden_layers = 48;
  c.num_attention_heads = 32;
  c.num_key_value_heads = 4;
  c.head_dim = 128;
  c.moe_intermediate_size = 768;
  c.num_experts = 128;
  c.num_experts_per_tok = 8;
  c.max_position_embeddings = 40960;
  return c;
}

MemoryPlan plan_memory(const io::ModelConfig& config, const model::WeightFormats& formats,
                       const LoadOptions& options, uint64_t available) {
  const parallel::Strategy strategy = choose_strategy(config, options.parallel);
  const ParallelPlan plan =
      plan_parallel(config, options.parallel, choose_limits(config, options, strategy.dp_size),
                    std::vector<int>(static_cast<size_t>(strategy.world()), 0));
  std::vector<int> here;
  for (int rank = 0; rank < strategy.world(); ++rank) here.push_back(rank);
  return engine::plan_memory(config, formats, options, plan, here, available);
}

std::string error_of(const io::ModelConfig& config, const LoadOptions& options, uint64_t available,
                     const model::WeightFormats& formats = DType::bf16) {
  try {
    plan_memory(config, formats, options, available);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(MemoryPlan, Qwen3_30BTakesWhatItsParametersSay) {
  LoadOptions options;
  options.max_total_tokens = 1000;
  const MemoryPlan plan = plan_memory(qwen3_30b(), DType::bf16, options, uint64_t{100} << 30);
  EXPECT_NEAR(static_cast<double>(plan.weights), 61.06e9, 0.05e9);  // 30.5 G parameters of 2 bytes
  EXPECT_EQ(plan.kv_tokens, 1024);                                  // whole blocks
  EXPECT_EQ(plan.kv_cache, 1024U * 48 * 2 * 4 * 128 * 2);
  EXPECT_EQ(plan.context_length, 40960);
}

// 4 bits, and a scale and a zero of 16 bits each for 64 inputs, or 48 of a down projection; the embedding and
// the router stay bf16.
TEST(MemoryPlan, Qwen3_30BInInt4FitsIntoSmallMachines) {
  LoadOptions options;
  options.max_total_tokens = 1000;
  const MemoryPlan plan =
      plan_memory(qwen3_30b(), {DType::bf16, WeightFormat::int4}, options, uint64_t{20} << 30);
  const double embedding = 151936.0 * 2048, router = 48.0 * 128 * 2048, down = 48.0 * 128 * 2048 * 768;
  const double others = embedding + 48 * (2 * 4096 + 2 * 512) * 2048.0 + 2 * down;
  EXPECT_NEAR(static_cast<double>(plan.weights),
              2 * (embedding + router) + others * 4.5 / 8 + down * (4 + 32.0 / 48) / 8, 0.01e9);
}

TEST(MemoryPlan, SamplingTakesMemoryOnTheFirstRankOfEachGroup) {
  LoadOptions options;
  options.max_total_tokens = 1000;
  const io::ModelConfig config = qwen3_30b();
  const auto activations = [&](int vocab_size, int tp_size, int dp_size) {
    io::ModelConfig changed = config;
    changed.vocab_size = vocab_size;
    options.parallel.strategy = {.tp_size = tp_size, .dp_size = dp_size};
    return static_cast<double>(plan_memory(changed, DType::bf16, options, uint64_t{200} << 30).activations);
  };
  // Beside logits, of each token of the vocabulary: a count for each request, 22 bytes for each of 32 rows
  // that are sampled at once, and a bit for each row.
  const double per_token = 256 * 4 + 32 * 22 + 256.0 / 8, logits = 256 * 4;
  EXPECT_NEAR((activations(150000, 1, 1) - activations(100000, 1, 1)) / 50000, per_token + logits, 1);
  EXPECT_NEAR((activations(150000, 1, 2) - activations(100000, 1, 2)) / 50000,
              2 * (128 * 4 + 32 * 22 + 128.0 / 8) + logits, 1);
  // Part logits of both ranks come together on the first, which has them whole, too.
  EXPECT_NEAR((activations(150000, 2, 1) - activations(100000, 2, 1)) / 50000, per_token + 3 * logits, 1);
}

TEST(MemoryPlan, TheCacheTakesItsPartOfWhatIsFree) {
  LoadOptions options;
  options.mem_fraction = 0.5;
  const uint64_t available = uint64_t{70} << 30;
  const MemoryPlan plan = plan_memory(qwen3_30b(), DType::bf16, options, available);
  EXPECT_EQ(plan.kv_tokens % kBlockTokens, 0);
  const auto free = static_cast<double>(available - plan.weights - plan.activations);
  EXPECT_NEAR(static_cast<double>(plan.kv_cache), 0.5 * free, 4e6);
}

TEST(MemoryPlan, TheCacheIsNoLargerThanTheRequestsCanFill) {
  LoadOptions options;
  options.max_running_requests = 2;
  options.context_length = 100;
  const MemoryPlan plan = plan_memory(qwen3_30b(), DType::bf16, options, uint64_t{200} << 30);
  EXPECT_EQ(plan.kv_tokens, 2 * 128);
}

TEST(MemoryPlan, AModelThatCannotFitIsRefusedWithTheFigures) {
  EXPECT_NE(error_of(qwen3_30b(), {}, uint64_t{24} << 30).find("does not fit"), std::string::npos);
  LoadOptions options;
  options.max_total_tokens = 10'000'000;
  EXPECT_NE(error_of(qwen3_30b(), options, uint64_t{100} << 30).find("--max-total-tokens"),
            std::string::npos);
}

// Of the forms of weights those are named that would fit, with what they need.
TEST(MemoryPlan, AModelThatCannotFitNamesTheQuantizationsThatWould) {
  const auto says = [](uint64_t gibibytes, const char* part, DType dtype = DType::bf16) {
    return error_of(qwen3_30b(), {}, gibibytes << 30, dtype).find(part) != std::string::npos;
  };
  EXPECT_TRUE(says(24, "--quantization int4 (1"));  // 17 to 18 GiB
  EXPECT_FALSE(says(24, "int8"));
  EXPECT_TRUE(says(48, "use --quantization int8 (3"));
  EXPECT_TRUE(says(48, " or --quantization int4 (1"));
  EXPECT_FALSE(says(8, "--quantization"));
  EXPECT_FALSE(says(48, "--quantization", DType::f32));
  EXPECT_TRUE(says(8, "use a larger machine"));
  // Who has asked for int8 may ask for less.
  const auto int8_says = [](uint64_t gibibytes) {
    return error_of(qwen3_30b(), {}, gibibytes << 30, {DType::bf16, WeightFormat::int8});
  };
  EXPECT_NE(int8_says(24).find("use --quantization int4 (1"), std::string::npos) << int8_says(24);
  EXPECT_EQ(int8_says(24).find("--quantization int8"), std::string::npos);
  EXPECT_EQ(int8_says(8).find("--quantization"), std::string::npos);
}

TEST(MemoryPlan, ACacheOfLessThanOneRequestIsSaidSo) {
  LoadOptions options;
  options.max_total_tokens = 1024;
  const MemoryPlan plan = plan_memory(qwen3_30b(), DType::bf16, options, uint64_t{100} << 30);
  EXPECT_NE(plan.table()[1].find("1024 tokens in bfloat16, less than one request of 40960"),
            std::string::npos)
      << plan.table()[1];
}

TEST(MemoryPlan, AContextBeyondTheModelsIsRefused) {
  LoadOptions options;
  options.context_length = 40961;
  const std::string text = error_of(qwen3_30b(), options, uint64_t{100} << 30);
  EXPECT_NE(text.find("--context-length"), std::string::npos);
  EXPECT_NE(text.find("40960"), std::string::npos);
}

std::string table_of(const MemoryPlan& plan) {
  std::string text;
  for (const std::string& line : plan.table()) text += line + "\n";
  return text;
}

TEST(MemoryPlan, AnInt8CacheTakesAByteForEachValueAndFourForEachHead) {
  LoadOptions options;
  options.max_total_tokens = 1000;
  options.kv_cache_dtype = "int8";
  const MemoryPlan plan = plan_memory(qwen3_30b(), DType::bf16, options, uint64_t{100} << 30);
  EXPECT_EQ(plan.kv_dtype, DType::i8);
  EXPECT_EQ(plan.kv_cache, 1024U * 48 * 2 * 4 * (128 + 4));
  EXPECT_NE(table_of(plan).find("1024 tokens in int8"), std::string::npos) << table_of(plan);
  options.parallel.strategy.tp_size = 8;  // two ranks for each KV head
  EXPECT_EQ(plan_memory(qwen3_30b(), DType::bf16, options, uint64_t{100} << 30).kv_cache, 2 * plan.kv_cache);
}

TEST(MemoryPlan, TheCacheIsInTheDtypeOfTheComputationUnlessAskedOtherwise) {
  LoadOptions options;
  for (const DType dtype : {DType::bf16, DType::f32})
    EXPECT_EQ(choose_kv_dtype(qwen3_30b(), dtype, options), dtype);
  for (const char* name : {"bfloat16", "bf16"}) {
    options.kv_cache_dtype = name;
    EXPECT_EQ(choose_kv_dtype(qwen3_30b(), DType::bf16, options), DType::bf16);
  }
}

TEST(MemoryPlan, ACacheThatCannotBeIsRefusedWithTheFlags) {
  LoadOptions options;
  io::ModelConfig config = qwen3_30b();
  const auto error = [&](DType dtype) { return error_of(config, options, uint64_t{100} << 30, dtype); };
  options.kv_cache_dtype = "int8";
  EXPECT_EQ(error(DType::f32), "--kv-cache-dtype int8 needs --dtype bfloat16, found --dtype float32");
  options.kv_cache_dtype = "fp8";
  EXPECT_EQ(error(DType::bf16), "--kv-cache-dtype: expected auto, bfloat16 or int8, found \"fp8\"");
  options.kv_cache_dtype = "int8";
  config.head_dim = 1026;
  EXPECT_EQ(error(DType::bf16), "--kv-cache-dtype int8: expected a head_dim of at most 1024, found 1026");
}

TEST(MemoryPlan, WhatADeviceHasNotIsRefusedWithItsName) {
  LoadOptions options;
  options.device = "ref";
  options.kv_cache_dtype = "int8";
  EXPECT_EQ(error_of(qwen3_30b(), options, uint64_t{100} << 30),
            "--kv-cache-dtype int8: a cache in int8 runs on the CPU alone, found --device ref");
  for (const std::string format : {"int8", "int4"}) {
    options.quantization = format;
    try {
      choose_formats(qwen3_30b(), options);
      ADD_FAILURE() << format;
    } catch (const Error& error) {
      EXPECT_EQ(error.what(),
                "--device ref: weights in " + format +
                    " run on the CPU alone; with --quantization none they are used in bfloat16");
    }
  }
  options.quantization = "none";
  EXPECT_EQ(choose_formats(qwen3_30b(), options).device, DeviceKind::ref);
  options.device = "tpu";
  EXPECT_THROW(choose_formats(qwen3_30b(), options), Error);
}

TEST(MemoryPlan, ADevicesBlocksAreCounted) {
  LoadOptions options;
  options.max_total_tokens = 33;
  EXPECT_EQ(plan_memory(qwen3_30b(), DType::bf16, options, uint64_t{100} << 30).kv_tokens, 64);
  model::WeightFormats formats = DType::bf16;
  formats.device = DeviceKind::ref;
  options.device = "ref";
  options.max_total_tokens = 65;
  EXPECT_EQ(plan_memory(qwen3_30b(), formats, options, uint64_t{100} << 30).kv_tokens, 128);
}

TEST(MemoryPlan, TheTableHasARowForEveryUse) {
  const MemoryPlan plan = plan_memory(qwen3_30b(), DType::bf16, {}, uint64_t{80} << 30);
  const std::string text = table_of(plan);
  for (const char* what : {"weights", "KV cache", "activations", "free"}) {
    EXPECT_NE(text.find(what), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace chorale::engine
