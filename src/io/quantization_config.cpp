#include "io/quantization_config.h"

#include <algorithm>
#include <cctype>
#include <optional>

#include "io/json_fields.h"

namespace chorale::io {
namespace {

using nlohmann::json;
using Method = QuantizationConfig::Method;

constexpr std::string_view kField = "quantization_config";
constexpr std::string_view kPrefix = "quantization_config.";
constexpr IntegerRange kBlockRange{1, int64_t{1} << 24};

// A field that, where it is given, must have one value: any other means another form of the weights.
void expect_text(const JsonFields& fields, std::string_view name, std::string_view expected) {
  std::optional<std::string> text = fields.optional_string(name);
  if (!text) return;
  std::string lower = *text;
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
  if (lower != expected) fields.fail(name, quote(expected), quote(*text));
}

void expect_boolean(const JsonFields& fields, std::string_view name, bool expected) {
  if (fields.optional_boolean(name).value_or(expected) != expected)
    fields.fail(name, expected ? "true" : "false", expected ? "false" : "true");
}

std::vector<std::string> read_names(const JsonFields& fields) {
  std::vector<std::string> names;
  for (const std::string_view name : {"modules_to_not_convert", "ignored_layers"}) {
    const json* value = fields.find(name);
    if (value == nullptr) continue;
    if (!value->is_array()) fields.fail_value(name, "an array of strings", *value);
    for (const json& module : *value) {
      if (!module.is_string()) fields.fail_value(name, "an array of strings", module);
      names.push_back(module.get<std::string>());
    }
  }
  return names;
}

void read_fp8(const JsonFields& fields, QuantizationConfig& config) {
  expect_text(fields, "fmt", "e4m3");
  expect_text(fields, "activation_scheme", "dynamic");
  const std::vector<int64_t> block = fields.integers("weight_block_size", kBlockRange);
  if (block.empty()) fields.fail_missing("weight_block_size", "two integers (scales of blocks)");
  if (block.size() != 2) {
    fields.fail("weight_block_size", "two integers", fmt::format("{} of them", block.size()));
  }
  config.bits = 8;
  config.block_rows = block[0];
  config.block_columns = block[1];
}

void read_groups(const JsonFields& fields, QuantizationConfig& config) {
  config.bits = fields.integer("bits", {1, 64});
  if (config.bits != 4) fields.fail("bits", "4", fmt::format("{}", config.bits));
  config.group_size = fields.integer("group_size", {-1, kBlockRange.max});
  if (config.group_size == 0) fields.fail("group_size", "-1 or a positive integer", "0");
}

// GPTQModel's rules for single modules. Those that begin with "-:" leave modules plain, which the
// checkpoint's tensors tell as well; all others change a module's bits or groups.
void refuse_overrides(const JsonFields& fields) {
  const json* dynamic = fields.find("dynamic");
  if (dynamic == nullptr) return;
  if (!dynamic->is_object()) fields.fail_value("dynamic", "an object", *dynamic);
  for (const auto& [rule, changes] : dynamic->items()) {
    if (!rule.starts_with("-:")) {
      fields.fail("dynamic", "rules that leave modules plain alone (\"-:...\")", quote(rule));
    }
  }
}

void read_gptq(const JsonFields& fields, QuantizationConfig& config) {
  read_groups(fields, config);
  refuse_overrides(fields);
  expect_text(fields, "pack_dtype", "int32");
  expect_boolean(fields, "is_marlin_format", false);
  config.desc_act = fields.optional_boolean("desc_act").value_or(false);
  // In a symmetric checkpoint all zeros are 8, and the files have them like any others.
  fields.optional_boolean("sym");
  const std::string format = fields.optional_string("checkpoint_format").value_or("gptq");
  if (format != "gptq" && format != "gptq_v2") {
    fields.fail("checkpoint_format", "\"gptq\" or \"gptq_v2\"", quote(format));
  }
  config.zeros_minus_one = format == "gptq";
}

void read_awq(const JsonFields& fields, QuantizationConfig& config) {
  read_groups(fields, config);
  expect_text(fields, "version", "gemm");
  expect_text(fields, "backend", "autoawq");
  expect_boolean(fields, "zero_point", true);
}

}  // namespace

std::string_view name_of(QuantizationConfig::Method method) {
  switch (method) {
    case QuantizationConfig::Method::none:
      return "none";
    case QuantizationConfig::Method::fp8:
      return "fp8";
    case QuantizationConfig::Method::gptq:
      return "gptq";
    case QuantizationConfig::Method::awq:
      return "awq";
  }
  return "?";
}

bool QuantizationConfig::leaves_plain(std::string_view module) const {
  return std::any_of(
      modules_to_not_convert.begin(), modules_to_not_convert.end(), [&](std::string_view name) {
        while (name.ends_with('.')) name.remove_suffix(1);
        if (name.empty()) return false;
        for (size_t at = module.find(name); at != std::string_view::npos; at = module.find(name, at + 1)) {
          const size_t end = at + name.size();
          if ((at == 0 || module[at - 1] == '.') && (end == module.size() || module[end] == '.')) return true;
        }
        return false;
      });
}

QuantizationConfig read_quantization_config(const JsonFields& config_fields) {
  QuantizationConfig config;
  const json* object = config_fields.find(kField);
  if (object == nullptr) return config;
  if (!object->is_object()) config_fields.fail_value(kField, "an object", *object);

  constexpr std::string_view kMethods = "\"fp8\", \"gptq\" or \"awq\"";
  const JsonFields fields(*object, config_fields.source(), kPrefix);
  const std::optional<std::string> method = fields.optional_string("quant_method");
  if (!method) fields.fail_missing("quant_method", kMethods);
  if (*method == "fp8") {
    config.method = Method::fp8;
    read_fp8(fields, config);
  } else if (*method == "gptq") {
    config.method = Method::gptq;
    read_gptq(fields, config);
  } else if (*method == "awq") {
    config.method = Method::awq;
    read_awq(fields, config);
  } else {
    fields.fail("quant_method", kMethods, quote(*method));
  }
  config.modules_to_not_convert = read_names(fields);
  return config;
}

}  // namespace chorale::io
