#include "io/quantization_config.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "io/json_fields.h"
#include "test_files.h"

namespace chorale::io {
namespace {

using nlohmann::json;
using Method = QuantizationConfig::Method;

QuantizationConfig read(const json& quantization) {
  const json config = {{"quantization_config", quantization}};
  return read_quantization_config(JsonFields(config, "dir/config.json"));
}

json fp8() {
  return {{"quant_method", "fp8"},
          {"fmt", "e4m3"},
          {"activation_scheme", "dynamic"},
          {"weight_block_size", {128, 64}},
          {"modules_to_not_convert", {"lm_head", "model.layers.0.mlp.gate"}}};
}

json gptq() {
  return {{"quant_method", "gptq"},
          {"bits", 4},
          {"group_size", 128},
          {"desc_act", false},
          {"sym", true},
          {"lm_head", false},
          {"checkpoint_format", "gptq"},
          {"pack_dtype", "int32"}};
}

json awq() {
  return {{"quant_method", "awq"}, {"bits", 4},         {"group_size", 128},
          {"zero_point", true},    {"version", "gemm"}, {"modules_to_not_convert", nullptr}};
}

json with(json object, const char* name, const json& value) {
  object[name] = value;
  return object;
}

json without(json object, const char* name) {
  object.erase(name);
  return object;
}

TEST(QuantizationConfig, IsNoneWithoutTheField) {
  EXPECT_EQ(read_quantization_config(JsonFields(json::object(), "f")), QuantizationConfig{});
  EXPECT_EQ(read(nullptr), QuantizationConfig{});
  EXPECT_FALSE(QuantizationConfig{}.is_int4());
}

TEST(QuantizationConfig, ReadsFp8) {
  const QuantizationConfig config = read(fp8());
  EXPECT_EQ(config.method, Method::fp8);
  EXPECT_EQ(config.bits, 8);
  EXPECT_EQ(config.block_rows, 128);
  EXPECT_EQ(config.block_columns, 64);
  EXPECT_FALSE(config.is_int4());
  EXPECT_EQ(config.modules_to_not_convert, (std::vector<std::string>{"lm_head", "model.layers.0.mlp.gate"}));
  EXPECT_NO_THROW(read(without(without(fp8(), "fmt"), "activation_scheme")));
  EXPECT_EQ(read(with(fp8(), "ignored_layers", {"x"})).modules_to_not_convert.size(), 3U);
}

TEST(QuantizationConfig, ReadsGptq) {
  const QuantizationConfig config = read(gptq());
  EXPECT_EQ(config.method, Method::gptq);
  EXPECT_TRUE(config.is_int4());
  EXPECT_EQ(config.bits, 4);
  EXPECT_EQ(config.group_size, 128);
  EXPECT_FALSE(config.desc_act);
  EXPECT_TRUE(config.zeros_minus_one);
  EXPECT_TRUE(read(without(gptq(), "checkpoint_format")).zeros_minus_one);
  EXPECT_FALSE(read(with(gptq(), "checkpoint_format", "gptq_v2")).zeros_minus_one);
  EXPECT_TRUE(read(with(gptq(), "desc_act", true)).desc_act);
  EXPECT_EQ(read(with(gptq(), "group_size", -1)).group_size, -1);
  EXPECT_NO_THROW(read(with(gptq(), "sym", false)));
  EXPECT_NO_THROW(read(with(gptq(), "dynamic", nullptr)));
  EXPECT_NO_THROW(read(with(gptq(), "dynamic", {{"-:.*mlp\\.gate", json::object()}})));
}

TEST(QuantizationConfig, ReadsAwq) {
  const QuantizationConfig config = read(awq());
  EXPECT_EQ(config.method, Method::awq);
  EXPECT_TRUE(config.is_int4());
  EXPECT_EQ(config.group_size, 128);
  EXPECT_FALSE(config.zeros_minus_one);
  EXPECT_TRUE(config.modules_to_not_convert.empty());
  EXPECT_NO_THROW(read(with(awq(), "version", "GEMM")));
}

TEST(QuantizationConfig, KnowsWhichModulesAreNamed) {
  const QuantizationConfig config =
      read(with(awq(), "modules_to_not_convert", {"mlp.gate.", "model.layers.2", "", "visual"}));
  EXPECT_TRUE(config.leaves_plain("model.layers.0.mlp.gate"));
  EXPECT_TRUE(config.leaves_plain("model.layers.2.self_attn.q_proj"));
  EXPECT_FALSE(config.leaves_plain("model.layers.0.mlp.gate_proj"));
  EXPECT_FALSE(config.leaves_plain("model.layers.20.self_attn.q_proj"));
  EXPECT_FALSE(config.leaves_plain("model.layers.0.self_attn.q_proj"));
  EXPECT_FALSE(QuantizationConfig{}.leaves_plain("model"));
}

TEST(QuantizationConfig, RefusesWhatIsNotSupported) {
  struct Case {
    json quantization;
    std::string field;
    std::vector<std::string> expected;
  };
  const std::vector<Case> cases = {
      {"fp8", "quantization_config", {"an object", "found \"fp8\""}},
      {json::object(), "quantization_config.quant_method", {"\"awq\"", "no such field"}},
      {{{"quant_method", 8}}, "quantization_config.quant_method", {"a string", "found 8"}},
      {{{"quant_method", "bitsandbytes"}},
       "quantization_config.quant_method",
       {"\"fp8\", \"gptq\" or \"awq\"", "found \"bitsandbytes\""}},
      {with(fp8(), "fmt", "e5m2"), "quantization_config.fmt", {"\"e4m3\"", "found \"e5m2\""}},
      {with(fp8(), "activation_scheme", "static"),
       "quantization_config.activation_scheme",
       {"\"dynamic\"", "found \"static\""}},
      {without(fp8(), "weight_block_size"), "quantization_config.weight_block_size", {"two integers"}},
      {with(fp8(), "weight_block_size", {128}), "quantization_config.weight_block_size", {"found 1 of them"}},
      {with(fp8(), "weight_block_size", {128, 0}), "quantization_config.weight_block_size", {"found 0"}},
      {with(fp8(), "modules_to_not_convert", "lm_head"),
       "quantization_config.modules_to_not_convert",
       {"an array of strings"}},
      {with(fp8(), "modules_to_not_convert", {1}),
       "quantization_config.modules_to_not_convert",
       {"an array of strings", "found 1"}},
      {with(gptq(), "bits", 8), "quantization_config.bits", {"expected 4", "found 8"}},
      {without(gptq(), "bits"), "quantization_config.bits", {"no such field"}},
      {with(gptq(), "group_size", 0), "quantization_config.group_size", {"found 0"}},
      {with(gptq(), "group_size", -2), "quantization_config.group_size", {"found -2"}},
      {without(gptq(), "group_size"), "quantization_config.group_size", {"no such field"}},
      {with(gptq(), "desc_act", 1), "quantization_config.desc_act", {"true or false"}},
      {with(gptq(), "checkpoint_format", "marlin"),
       "quantization_config.checkpoint_format",
       {"\"gptq_v2\"", "found \"marlin\""}},
      {with(gptq(), "is_marlin_format", true), "quantization_config.is_marlin_format", {"false"}},
      {with(gptq(), "pack_dtype", "int16"), "quantization_config.pack_dtype", {"\"int32\""}},
      {with(gptq(), "dynamic", {{"+:.*down_proj", {{"bits", 8}}}}),
       "quantization_config.dynamic",
       {"found \"+:.*down_proj\""}},
      {with(gptq(), "dynamic", 1), "quantization_config.dynamic", {"an object"}},
      {with(awq(), "bits", 3), "quantization_config.bits", {"found 3"}},
      {with(awq(), "version", "gemv"), "quantization_config.version", {"\"gemm\"", "found \"gemv\""}},
      {with(awq(), "backend", "llm-awq"), "quantization_config.backend", {"found \"llm-awq\""}},
      {with(awq(), "zero_point", false), "quantization_config.zero_point", {"expected true"}},
  };
  for (const Case& bad : cases) {
    const std::string message = error_of([&] { read(bad.quantization); });
    EXPECT_TRUE(message.starts_with("dir/config.json: field \"" + bad.field + "\": expected ")) << message;
    for (const std::string& part : bad.expected) EXPECT_NE(message.find(part), std::string::npos) << message;
  }
}

}  // namespace
}  // namespace chorale::io
