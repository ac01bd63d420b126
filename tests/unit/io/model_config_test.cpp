#include "io/model_config.h"

#include <limits>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "source_dir.h"
#include "test_files.h"

namespace chorale::io {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

constexpr std::string_view kSource = "dir/config.json";

// The smallest config that is accepted: only what has no default.
json minimal() {
  return {{"architectures", {"Qwen3MoeForCausalLM"}},
          {"vocab_size", 1000},
          {"hidden_size", 64},
          {"num_hidden_layers", 4},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"num_experts", 8},
          {"num_experts_per_tok", 2},
          {"moe_intermediate_size", 32}};
}

// `changes` replaces fields; the value "<remove>" takes one out.
json changed(const json& changes, json config = minimal()) {
  for (const auto& [name, value] : changes.items()) {
    if (value == "<remove>") {
      config.erase(name);
    } else {
      config[name] = value;
    }
  }
  return config;
}

ModelConfig parse(const json& config) {
  return parse_model_config(config.dump(), kSource);
}

TEST(ModelConfig, ReadsTheBundledModel) {
  const ModelConfig c = load_model_config(source_dir() / "models/tales-moe");
  EXPECT_EQ(c.architecture, "Qwen3MoeForCausalLM");
  EXPECT_EQ(c.model_type, "qwen3_moe");
  EXPECT_EQ(c.vocab_size, 4096);
  EXPECT_EQ(c.hidden_size, 256);
  EXPECT_EQ(c.num_hidden_layers, 6);
  EXPECT_EQ(c.num_attention_heads, 8);
  EXPECT_EQ(c.num_key_value_heads, 4);
  EXPECT_EQ(c.head_dim, 64);
  EXPECT_EQ(c.intermediate_size, 512);
  EXPECT_EQ(c.moe_intermediate_size, 128);
  EXPECT_EQ(c.num_experts, 16);
  EXPECT_EQ(c.num_experts_per_tok, 4);
  EXPECT_EQ(c.decoder_sparse_step, 1);
  EXPECT_TRUE(c.norm_topk_prob);
  EXPECT_FALSE(c.attention_bias);
  EXPECT_FALSE(c.tie_word_embeddings);
  EXPECT_EQ(c.rms_norm_eps, 1e-6);
  EXPECT_EQ(c.rope_theta, 1e6);
  EXPECT_EQ(c.rope_scaling, RopeScaling{});
  EXPECT_EQ(c.max_position_embeddings, 2048);
  EXPECT_EQ(c.dtype, DType::bf16);
  EXPECT_EQ(c.bos_token_id, 4064);
  EXPECT_THAT(c.eos_token_ids, ElementsAre(4066));
  for (int64_t layer = 0; layer < 6; ++layer) EXPECT_TRUE(c.is_sparse_layer(layer));
}

TEST(ModelConfig, FillsInTheDefaultsOfTransformers) {
  const ModelConfig c = parse(minimal());
  EXPECT_EQ(c.head_dim, 16);  // hidden_size / num_attention_heads
  EXPECT_EQ(c.intermediate_size, 0);
  EXPECT_EQ(c.decoder_sparse_step, 1);
  EXPECT_THAT(c.mlp_only_layers, IsEmpty());
  EXPECT_FALSE(c.norm_topk_prob);
  EXPECT_FALSE(c.attention_bias);
  EXPECT_FALSE(c.tie_word_embeddings);
  EXPECT_EQ(c.rms_norm_eps, 1e-6);
  EXPECT_EQ(c.rope_theta, 10000.0);
  EXPECT_EQ(c.max_position_embeddings, 32768);
  EXPECT_EQ(c.dtype, DType::bf16);
  EXPECT_EQ(c.bos_token_id, std::nullopt);
  EXPECT_THAT(c.eos_token_ids, IsEmpty());
}

TEST(ModelConfig, BothSpellingsAreEqual) {
  const json yarn = {{"factor", 4.0},
                     {"original_max_position_embeddings", 1024},
                     {"beta_fast", 16},
                     {"beta_slow", 2},
                     {"attention_factor", 1.25},
                     {"mscale", 0.7},
                     {"mscale_all_dim", 0.5},
                     {"truncate", false}};
  json old_yarn = yarn;
  old_yarn["type"] = "yarn";
  json new_yarn = yarn;
  new_yarn["rope_type"] = "yarn";
  new_yarn["rope_theta"] = 5e5;
  const ModelConfig from_4 = parse(changed({{"rope_theta", 5e5},
                                            {"rope_scaling", old_yarn},
                                            {"torch_dtype", "float16"},
                                            {"head_dim", 16},
                                            {"mlp_only_layers", nullptr}}));
  const ModelConfig from_5 = parse(changed({{"rope_parameters", new_yarn},
                                            {"dtype", "float16"},
                                            {"num_experts", "<remove>"},
                                            {"num_local_experts", 8},
                                            {"head_dim", nullptr},
                                            {"mlp_only_layers", json::array()},
                                            {"architectures", nullptr},
                                            {"model_type", "qwen3_moe"}}));
  EXPECT_EQ(from_4, from_5);
  EXPECT_EQ(from_5.rope_theta, 5e5);
  EXPECT_EQ(from_5.dtype, DType::f16);
  EXPECT_EQ(from_5.num_experts, 8);
  RopeScaling expected{RopeScaling::Type::yarn, 4.0, 1024, 16, 2, 1.25, 0.7, 0.5, false};
  EXPECT_EQ(from_5.rope_scaling, expected);
}

struct RopeCase {
  json changes;
  double theta;
  RopeScaling scaling;
};

TEST(ModelConfig, ReadsRotaryEmbeddings) {
  using Type = RopeScaling::Type;
  RopeScaling linear;
  linear.type = Type::linear;
  linear.factor = 2.5;
  RopeScaling yarn;
  yarn.type = Type::yarn;
  yarn.factor = 4;
  yarn.original_max_position_embeddings = 32768;
  RopeScaling short_yarn = yarn;
  short_yarn.original_max_position_embeddings = 512;
  RopeScaling ratio = yarn;
  ratio.factor = 8;
  ratio.original_max_position_embeddings = 4096;
  const RopeCase cases[] = {
      {{{"rope_theta", 1000000}}, 1e6, {}},
      {{{"rope_scaling", nullptr}, {"rope_parameters", nullptr}}, 1e4, {}},
      {{{"rope_scaling", json::object()}, {"rope_theta", 7.5}}, 7.5, {}},
      {{{"rope_scaling", {{"type", "default"}}}}, 1e4, {}},
      {{{"rope_parameters", {{"rope_theta", 3e6}, {"rope_type", "default"}}}}, 3e6, {}},
      // The inner theta wins over the outer one.
      {{{"rope_parameters", {{"rope_theta", 3e6}}}, {"rope_theta", 2}}, 3e6, {}},
      {{{"rope_parameters", {{"rope_type", "default"}}}, {"rope_theta", 25}}, 25, {}},
      {{{"rope_scaling", {{"type", "linear"}, {"factor", 2.5}}}}, 1e4, linear},
      {{{"rope_scaling", {{"rope_type", "linear"}, {"factor", 2.5}}}}, 1e4, linear},
      {{{"rope_parameters", {{"rope_type", "linear"}, {"factor", 2.5}, {"rope_theta", 3e6}}}}, 3e6, linear},
      // rope_type wins over type.
      {{{"rope_scaling", {{"type", "linear"}, {"rope_type", "yarn"}, {"factor", 4}}}}, 1e4, yarn},
      {{{"rope_scaling", {{"type", "yarn"}, {"factor", 4}, {"original_max_position_embeddings", 512}}}},
       1e4,
       short_yarn},
      {{{"rope_scaling", {{"type", "yarn"}, {"factor", 4}, {"original_max_position_embeddings", 512.0}}}},
       1e4,
       short_yarn},
      // The outer original length wins over the inner one.
      {{{"rope_scaling", {{"type", "yarn"}, {"factor", 4}, {"original_max_position_embeddings", 99}}},
        {"original_max_position_embeddings", 512}},
       1e4,
       short_yarn},
      {{{"rope_scaling",
         {{"type", "yarn"}, {"factor", nullptr}, {"original_max_position_embeddings", 4096}}}},
       1e4,
       ratio},
      // Null and zero betas are the defaults.
      {{{"rope_scaling", {{"type", "yarn"}, {"factor", 4}, {"beta_fast", nullptr}, {"beta_slow", 0}}}},
       1e4,
       yarn},
      // The same twice is no contradiction.
      {{{"rope_scaling", {{"type", "linear"}, {"factor", 2.5}}},
        {"rope_parameters", {{"type", "linear"}, {"factor", 2.5}}}},
       1e4,
       linear},
      {{{"partial_rotary_factor", 1.0}}, 1e4, {}},
  };
  for (const RopeCase& c : cases) {
    SCOPED_TRACE(c.changes.dump());
    const ModelConfig config = parse(changed(c.changes));
    EXPECT_EQ(config.rope_theta, c.theta);
    EXPECT_EQ(config.rope_scaling, c.scaling);
  }
}

TEST(ModelConfig, TellsSparseFromDenseLayers) {
  const auto sparse = [](const json& changes) {
    const ModelConfig c = parse(changed(changes));
    std::string layers;
    for (int64_t layer = 0; layer < c.num_hidden_layers; ++layer)
      layers += c.is_sparse_layer(layer) ? 's' : 'd';
    return layers;
  };
  EXPECT_EQ(sparse({}), "ssss");
  EXPECT_EQ(sparse({{"decoder_sparse_step", 2}, {"intermediate_size", 96}}), "dsds");
  EXPECT_EQ(sparse({{"decoder_sparse_step", 3}, {"intermediate_size", 96}}), "ddsd");
  EXPECT_EQ(sparse({{"mlp_only_layers", {3, 0, 3}}, {"intermediate_size", 96}}), "dssd");
  EXPECT_EQ(sparse({{"mlp_only_layers", {1}}, {"decoder_sparse_step", 2}, {"intermediate_size", 96}}),
            "ddds");
  EXPECT_EQ(sparse({{"num_experts", 0}, {"intermediate_size", 96}}), "dddd");
  EXPECT_EQ(sparse({{"num_experts", 1}, {"num_experts_per_tok", 1}}), "ssss");
}

TEST(ModelConfig, AsksOnlyForTheSizesThatAreUsed) {
  const ModelConfig dense = parse(changed({{"num_experts", 0},
                                           {"num_experts_per_tok", 8},
                                           {"moe_intermediate_size", "<remove>"},
                                           {"intermediate_size", 96}}));
  EXPECT_EQ(dense.num_experts_per_tok, 0);
  EXPECT_EQ(dense.moe_intermediate_size, 0);
  EXPECT_EQ(dense.intermediate_size, 96);
  EXPECT_EQ(parse(changed({{"intermediate_size", 0}})).intermediate_size, 0);
}

TEST(ModelConfig, ReadsTheRemainingSpellings) {
  EXPECT_THAT(parse(changed({{"eos_token_id", 7}})).eos_token_ids, ElementsAre(7));
  EXPECT_THAT(parse(changed({{"eos_token_id", {7, 3}}})).eos_token_ids, ElementsAre(7, 3));
  EXPECT_THAT(parse(changed({{"eos_token_id", nullptr}})).eos_token_ids, IsEmpty());
  EXPECT_EQ(parse(changed({{"torch_dtype", "float32"}})).dtype, DType::f32);
  EXPECT_EQ(parse(changed({{"torch_dtype", "torch.float16"}})).dtype, DType::f16);
  EXPECT_EQ(parse(changed({{"dtype", "float32"}, {"torch_dtype", "float16"}})).dtype, DType::f32);
  EXPECT_EQ(parse(changed({{"dtype", nullptr}, {"torch_dtype", "float16"}})).dtype, DType::f16);
  EXPECT_EQ(parse(changed({{"num_local_experts", 8}})).num_experts, 8);
  EXPECT_EQ(parse(changed({{"architectures", {"Other", "Qwen3MoeForCausalLM"}}})).num_experts, 8);
  EXPECT_EQ(parse(changed({{"head_dim", 128}})).head_dim, 128);
  EXPECT_EQ(parse(changed({{"layer_types", {"full_attention", "full_attention"}}})).num_experts, 8);
  EXPECT_EQ(parse(changed({{"use_sliding_window", false}, {"sliding_window", 4096}})).num_experts, 8);
  EXPECT_TRUE(parse(changed({{"attention_bias", true}})).attention_bias);
  EXPECT_TRUE(parse(changed({{"tie_word_embeddings", true}})).tie_word_embeddings);
  EXPECT_TRUE(parse(changed({{"norm_topk_prob", true}})).norm_topk_prob);
  EXPECT_EQ(parse(changed({{"rms_norm_eps", 1e-5}})).rms_norm_eps, 1e-5);
}

struct BadConfig {
  json changes;
  std::string field;
  std::vector<std::string> expected;
};

void expect_refused(const std::vector<BadConfig>& cases) {
  for (const BadConfig& bad : cases) {
    SCOPED_TRACE(bad.changes.dump());
    const std::string message = error_of([&] { parse(changed(bad.changes)); });
    EXPECT_THAT(message, StartsWith(fmt::format("{}: field \"{}\": expected ", kSource, bad.field)));
    EXPECT_THAT(message, HasSubstr(", found "));
    for (const std::string& part : bad.expected) EXPECT_THAT(message, HasSubstr(part));
  }
}

TEST(ModelConfig, RefusesMissingFields) {
  for (const std::string field :
       {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "num_experts", "num_experts_per_tok", "moe_intermediate_size", "architectures"}) {
    expect_refused({{{{field, "<remove>"}}, field, {"found no such field"}}});
    if (field != "architectures") expect_refused({{{{field, nullptr}}, field, {"found null"}}});
  }
  expect_refused({
      {{{"decoder_sparse_step", 2}}, "intermediate_size", {"no such field"}},
      {{{"num_experts", 0}}, "intermediate_size", {"no such field"}},
      {{{"mlp_only_layers", {0}}, {"intermediate_size", 0}}, "intermediate_size", {"from 1", "found 0"}},
  });
}

TEST(ModelConfig, RefusesWrongTypesAndSizes) {
  const std::string huge = "99999999999999999999999999";
  std::vector<BadConfig> cases;
  for (const std::string field :
       {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "num_experts", "num_experts_per_tok", "moe_intermediate_size", "intermediate_size", "head_dim",
        "decoder_sparse_step", "max_position_embeddings", "bos_token_id", "eos_token_id"}) {
    for (const json& value : {json("64"), json(64.0), json(true), json(-1), json::object(), json(1e30),
                              json(std::numeric_limits<uint64_t>::max()), json(int64_t{1} << 40)}) {
      cases.push_back({{{field, value}}, field, {"an integer from"}});
    }
  }
  for (const std::string field : {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
                                  "num_key_value_heads", "num_experts_per_tok", "moe_intermediate_size",
                                  "decoder_sparse_step", "head_dim", "max_position_embeddings"}) {
    cases.push_back({{{field, 0}}, field, {"found 0"}});
  }
  for (const std::string field :
       {"attention_bias", "tie_word_embeddings", "norm_topk_prob", "use_sliding_window"}) {
    for (const json& value : {json(1), json("true"), json::array()}) {
      cases.push_back({{{field, value}}, field, {"true or false"}});
    }
  }
  for (const std::string field : {"rms_norm_eps", "rope_theta"}) {
    for (const json& value : {json(0), json(-1e-6), json("1e-6"), json(true), json(1e300)}) {
      cases.push_back({{{field, value}}, field, {"a finite number above 0"}});
    }
  }
  expect_refused(cases);
}

TEST(ModelConfig, RefusesSizesThatDoNotGoTogether) {
  expect_refused({
      {{{"num_attention_heads", 6}, {"num_key_value_heads", 4}}, "num_attention_heads", {"(4)", "found 6"}},
      {{{"num_key_value_heads", 8}}, "num_attention_heads", {"(8)", "found 4"}},
      {{{"num_experts_per_tok", 9}}, "num_experts_per_tok", {"num_experts (8)", "found 9"}},
      {{{"num_local_experts", 9}}, "num_local_experts", {"num_experts, 8", "found 9"}},
      {{{"head_dim", 17}}, "head_dim", {"even", "found 17"}},
      {{{"hidden_size", 60}}, "head_dim", {"even", "found 15 (hidden_size / num_attention_heads)"}},
      {{{"hidden_size", 2}}, "head_dim", {"even", "found 0"}},
      {{{"mlp_only_layers", {4}}}, "mlp_only_layers", {"from 0 to 3", "found 4"}},
      {{{"mlp_only_layers", {-1}}}, "mlp_only_layers", {"from 0 to 3", "found -1"}},
      {{{"mlp_only_layers", {"0"}}}, "mlp_only_layers", {"found \"0\""}},
      {{{"mlp_only_layers", 0}}, "mlp_only_layers", {"an array", "found 0"}},
      {{{"eos_token_id", {1, "x"}}}, "eos_token_id", {"found \"x\""}},
      {{{"num_hidden_layers", 10'001}}, "num_hidden_layers", {"to 10000"}},
      {{{"hidden_size", (1 << 20) + 1}}, "hidden_size", {"to 1048576"}},
      {{{"vocab_size", (1 << 20) + 1}}, "vocab_size", {"from 1 to 1048576", "found 1048577"}},
      {{{"vocab_size", 1 << 24}}, "vocab_size", {"from 1 to 1048576", "found 16777216"}},
      {{{"vocab_size", 0}}, "vocab_size", {"from 1 to 1048576", "found 0"}},
      {{{"num_experts", 65'537}}, "num_experts", {"to 65536"}},
  });
  const json absurd =
      changed({{"hidden_size", 1 << 20}, {"num_experts", 65'536}, {"moe_intermediate_size", 1 << 24}});
  EXPECT_THAT(error_of([&] { parse(absurd); }),
              HasSubstr("dir/config.json: expected sizes that make at most 2^48"));
  const json many =
      changed({{"hidden_size", 1 << 20}, {"moe_intermediate_size", 1 << 20}, {"num_hidden_layers", 100}});
  EXPECT_THAT(error_of([&] { parse(many); }), HasSubstr("2^48 parameters, found 2"));
}

TEST(ModelConfig, RefusesWhatIsNotSupported) {
  expect_refused({
      {{{"architectures", {"LlamaForCausalLM"}}},
       "architectures",
       {"Qwen3MoeForCausalLM", "\"LlamaForCausalLM\""}},
      {{{"architectures", json::array()}}, "architectures", {"Qwen3MoeForCausalLM", "an empty array"}},
      {{{"architectures", "Qwen3MoeForCausalLM"}}, "architectures", {"an array"}},
      {{{"architectures", {1}}}, "architectures", {"Qwen3MoeForCausalLM", "found 1"}},
      {{{"model_type", "qwen2_moe"}}, "model_type", {"qwen3_moe", "found \"qwen2_moe\""}},
      {{{"model_type", 3}}, "model_type", {"qwen3_moe", "found 3"}},
      {{{"hidden_act", "gelu"}}, "hidden_act", {"\"silu\"", "found \"gelu\""}},
      {{{"use_sliding_window", true}}, "use_sliding_window", {"not supported", "found true"}},
      {{{"layer_types", {"full_attention", "sliding_attention"}}},
       "layer_types",
       {"found \"sliding_attention\""}},
      {{{"layer_types", "x"}}, "layer_types", {"an array"}},
      {{{"quantization_config", {{"quant_method", "hqq"}}}},
       "quantization_config.quant_method",
       {"\"gptq\"", "found \"hqq\""}},
      {{{"quantization_config", json::object()}}, "quantization_config.quant_method", {"no such field"}},
      {{{"torch_dtype", "float8_e4m3fn"}}, "torch_dtype", {"\"bfloat16\"", "found \"float8_e4m3fn\""}},
      {{{"dtype", "float64"}}, "dtype", {"\"float32\"", "found \"float64\""}},
      {{{"dtype", 16}}, "dtype", {"a string", "found 16"}},
      {{{"partial_rotary_factor", 0.5}}, "partial_rotary_factor", {"1.0", "found 0.5"}},
  });
}

TEST(ModelConfig, NullIsAbsentInEveryField) {
  const ModelConfig plain = parse(minimal());
  json nulls = minimal();
  for (const char* name : {"hidden_act",
                           "use_sliding_window",
                           "layer_types",
                           "torch_dtype",
                           "dtype",
                           "quantization_config",
                           "rope_scaling",
                           "rope_parameters",
                           "rope_theta",
                           "partial_rotary_factor",
                           "decoder_sparse_step",
                           "mlp_only_layers",
                           "norm_topk_prob",
                           "attention_bias",
                           "tie_word_embeddings",
                           "rms_norm_eps",
                           "max_position_embeddings",
                           "head_dim",
                           "bos_token_id",
                           "eos_token_id",
                           "num_local_experts",
                           "intermediate_size",
                           "dual_chunk_attention_config"}) {
    if (!nulls.contains(name)) nulls[name] = nullptr;
  }
  EXPECT_EQ(parse(nulls), plain);
  for (const char* name :
       {"vocab_size", "hidden_size", "num_hidden_layers", "num_experts", "num_experts_per_tok"}) {
    EXPECT_THAT(error_of([&] {
                  parse(changed({{name, nullptr}}));
                }),
                AllOf(HasSubstr(name), HasSubstr("found null")));
  }
}

// As who adds it to a config.json leaves the rest.
TEST(ModelConfig, YarnsContextIsTheOriginalOneTimesTheFactor) {
  struct Case {
    json fields;
    int64_t context;
  };
  const std::vector<Case> cases = {
      {{{"max_position_embeddings", 40960},
        {"rope_scaling",
         {{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 32768}}}},
       131072},
      {{{"max_position_embeddings", 262144},
        {"rope_scaling", {{"type", "yarn"}, {"factor", 2}, {"original_max_position_embeddings", 262144}}}},
       524288},
      {{{"max_position_embeddings", 131072},
        {"rope_scaling",
         {{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 32768}}}},
       131072},
      {{{"max_position_embeddings", 1000},
        {"rope_parameters",
         {{"rope_type", "yarn"}, {"factor", 2.5}, {"original_max_position_embeddings", 100}}}},
       250},
      {{{"max_position_embeddings", 4096}, {"rope_scaling", {{"rope_type", "yarn"}, {"factor", 4.0}}}}, 4096},
      {{{"max_position_embeddings", 4096},
        {"rope_scaling", {{"rope_type", "yarn"}, {"original_max_position_embeddings", 1024}}}},
       4096},
      {{{"max_position_embeddings", 4096}, {"rope_scaling", {{"type", "linear"}, {"factor", 4.0}}}}, 4096}};
  for (const Case& c : cases) {
    EXPECT_EQ(parse(changed(c.fields)).max_position_embeddings, c.context) << c.fields.dump();
  }
}

TEST(ModelConfig, SaysThatDualChunkAttentionIsThere) {
  EXPECT_FALSE(parse(minimal()).has_dual_chunk_attention);
  EXPECT_TRUE(
      parse(changed({{"dual_chunk_attention_config", {{"chunk_size", 262144}}}})).has_dual_chunk_attention);
}

TEST(ModelConfig, AByteOrderMarkIsNoPartOfTheText) {
  const ModelConfig config = parse_model_config("\xEF\xBB\xBF" + minimal().dump(), "config.json");
  EXPECT_EQ(config, parse(minimal()));
}

TEST(ModelConfig, RefusesBadRotaryEmbeddings) {
  const auto scaling = [](const json& object) { return json{{"rope_scaling", object}}; };
  const auto yarn = [&](const json& more) {
    json object = {{"type", "yarn"}, {"factor", 4}};
    object.update(more);
    return scaling(object);
  };
  expect_refused({
      {scaling("yarn"), "rope_scaling", {"an object or null", "found \"yarn\""}},
      {scaling({{"type", "dynamic"}, {"factor", 2}}),
       "rope_scaling.type",
       {"\"linear\" or \"yarn\"", "\"dynamic\""}},
      {scaling({{"rope_type", "llama3"}}), "rope_scaling.rope_type", {"\"yarn\"", "\"llama3\""}},
      {{{"rope_parameters", {{"rope_type", "longrope"}}}},
       "rope_parameters.rope_type",
       {"\"yarn\"", "\"longrope\""}},
      {scaling({{"type", 1}}), "rope_scaling.type", {"found 1"}},
      {scaling({{"factor", 2}}), "rope_scaling.rope_type", {"no such field"}},
      {scaling({{"type", "linear"}}), "rope_scaling.factor", {"above 0", "no such field"}},
      {scaling({{"type", "linear"}, {"factor", nullptr}}), "rope_scaling.factor", {"found null"}},
      {scaling({{"type", "linear"}, {"factor", 0}}), "rope_scaling.factor", {"above 0", "found 0"}},
      {scaling({{"type", "linear"}, {"factor", -2.0}}), "rope_scaling.factor", {"above 0", "found -2.0"}},
      {scaling({{"type", "linear"}, {"factor", "2"}}), "rope_scaling.factor", {"found \"2\""}},
      {scaling({{"type", "yarn"}}), "rope_scaling.factor", {"no such field"}},
      {yarn({{"original_max_position_embeddings", 0}}),
       "rope_scaling.original_max_position_embeddings",
       {"above 0"}},
      {yarn({{"attention_factor", -1}}), "rope_scaling.attention_factor", {"above 0", "found -1"}},
      {yarn({{"beta_fast", -1}}), "rope_scaling.beta_fast", {"from 0", "found -1"}},
      {yarn({{"beta_fast", 1}, {"beta_slow", 2}}),
       "rope_scaling.beta_fast",
       {"at least beta_slow (2)", "found 1"}},
      {yarn({{"mscale", "x"}}), "rope_scaling.mscale", {"found \"x\""}},
      {yarn({{"truncate", 1}}), "rope_scaling.truncate", {"true or false"}},
      {yarn({{"rope_theta", 1.0}}), "rope_scaling.rope_theta", {"above 1", "found 1"}},
      {yarn({{"partial_rotary_factor", 0.25}}), "rope_scaling.partial_rotary_factor", {"1.0", "found 0.25"}},
      {{{"rope_parameters", {{"rope_theta", 0}}}}, "rope_parameters.rope_theta", {"above 0", "found 0"}},
      {{{"rope_parameters", {{"full_attention", {{"rope_theta", 5}}}}}},
       "rope_parameters.full_attention",
       {"all layers"}},
      {{{"rope_parameters", {{"rope_theta", 5}}}, {"rope_scaling", {{"type", "linear"}, {"factor", 2}}}},
       "rope_scaling",
       {"only one of the two"}},
  });
}

struct BadText {
  std::string what;
  std::string text;
  std::vector<std::string> expected;
};

TEST(ModelConfig, RefusesBadJson) {
  const std::string good = minimal().dump();
  const std::string open = good.substr(0, good.size() - 1);
  const BadText cases[] = {
      {"empty", "", {"invalid JSON at byte"}},
      {"cut", good.substr(0, 40), {"invalid JSON at byte"}},
      {"an array", "[1]", {"expected a JSON object, found an array"}},
      {"a number", "3", {"expected a JSON object, found 3"}},
      {"duplicate key", open + R"(,"hidden_size":64})", {"field \"hidden_size\"", "duplicate key"}},
      {"duplicate inner key",
       open + R"(,"rope_scaling":{"type":"yarn","type":"yarn"}})",
       {"\"type\"", "duplicate"}},
      {"NaN", open + R"(,"rms_norm_eps":NaN})", {"invalid JSON", "after key \"rms_norm_eps\""}},
      {"infinite", open + R"(,"rope_theta":1e999})", {"invalid JSON", "after key \"rope_theta\""}},
      {"too deep", open + R"(,"x":)" + std::string(100'000, '['), {"at most 32 nested"}},
      {"too deep in objects",
       [] {
         std::string text;
         for (int i = 0; i < 100'000; ++i) text += "{\"x\":";
         return text;
       }(),
       {"at most 32 nested"}},
      {"too many values",
       open + R"(,"x":[0)" +
           [] {
             std::string text;
             for (int i = 0; i < 1'000'000; ++i) text += ",0";
             return text;
           }() +
           "]}",
       {"at most 1000000 JSON values"}},
      {"invalid UTF-8", open + ",\"x\":\"\xc3\x28\"}", {"invalid JSON", "UTF-8"}},
      {"NUL", good + std::string(1, '\0') + "x", {"invalid JSON", "NUL"}},
      {"comment", good + "// x", {"invalid JSON"}},
      {"two objects", good + good, {"invalid JSON"}},
  };
  for (const BadText& bad : cases) {
    SCOPED_TRACE(bad.what);
    const std::string message = error_of([&] { parse_model_config(bad.text, kSource); });
    EXPECT_THAT(message, StartsWith("dir/config.json: "));
    EXPECT_LT(message.size(), 600U);
    for (const std::string& part : bad.expected) EXPECT_THAT(message, HasSubstr(part));
  }
}

TEST(ModelConfig, BoundsTheFile) {
  TemporaryFolder folder;
  EXPECT_THAT(error_of([&] { load_model_config(folder.path()); }), HasSubstr("config.json: cannot open"));
  folder.write("config.json", minimal().dump());
  EXPECT_EQ(load_model_config(folder.path()), parse(minimal()));
  std::filesystem::resize_file(folder / "config.json", (16 << 20) + 1);
  EXPECT_THAT(error_of([&] { load_model_config(folder.path()); }),
              HasSubstr("at most 16777216 bytes, found 16777217"));
}

TEST(ModelConfig, SurvivesMutation) {
  const std::string valid = changed({{"rope_scaling", {{"type", "yarn"}, {"factor", 4.0}, {"beta_fast", 32}}},
                                     {"mlp_only_layers", {1, 2}},
                                     {"intermediate_size", 64},
                                     {"eos_token_id", {1, 2}}})
                                .dump();
  std::mt19937 random(99);
  const std::string_view tokens = "{}[]\",:0123456789-.eEnul\\ ";
  int parsed = 0;
  int refused = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::string text = valid;
    for (int edit = 1 + static_cast<int>(random() % 3); edit > 0; --edit) {
      const size_t at = random() % text.size();
      switch (random() % 3) {
        case 0:
          text[at] = random() % 8 == 0 ? static_cast<char>(random()) : tokens[random() % tokens.size()];
          break;
        case 1:
          text.erase(at, 1 + random() % 4);
          break;
        default:
          text.insert(at, 1, tokens[random() % tokens.size()]);
      }
    }
    try {
      const ModelConfig c = parse_model_config(text, kSource);
      ASSERT_EQ(c.num_attention_heads % c.num_key_value_heads, 0);
      ASSERT_EQ(c.head_dim % 2, 0);
      ASSERT_LE(c.num_experts_per_tok, c.num_experts);
      ++parsed;
    } catch (const Error& error) {
      ASSERT_THAT(error.what(), StartsWith("dir/config.json: "));
      ++refused;
    }
  }
  EXPECT_GT(parsed, 100);
  EXPECT_GT(refused, 1'000);
}

}  // namespace
}  // namespace chorale::io
