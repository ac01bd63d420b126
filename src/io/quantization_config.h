// How the weights of a checkpoint are quantized: `quantization_config` of config.json, as transformers writes
// it.
//
// A value of this type describes one of the forms that io/linear_source.h reads. Which matrices have that
// form is told by the tensors that the checkpoint has.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace chorale::io {

class JsonFields;

struct QuantizationConfig {
  enum class Method { none, fp8, gptq, awq };
  Method method = Method::none;

  // fp8: the block of a weight [N, K] that shares a scale.
  int64_t block_rows = 0;
  int64_t block_columns = 0;

  // gptq and awq: 4 bits; how many inputs of an output share a scale and a zero. -1: all.
  int64_t bits = 0;
  int64_t group_size = 0;
  bool desc_act = false;         // gptq: the inputs of a group need not be neighbours (g_idx)
  bool zeros_minus_one = false;  // gptq: files have one less than the zero

  std::vector<std::string> modules_to_not_convert;

  bool is_int4() const { return method == Method::gptq || method == Method::awq; }

  // Whether modules_to_not_convert names the module or one that it is part of: "mlp.gate" names
  // "model.layers.0.mlp.gate", not "model.layers.0.mlp.gate_proj".
  bool leaves_plain(std::string_view module) const;

  bool operator==(const QuantizationConfig&) const = default;
};

// "none", "fp8", "gptq" or "awq".
std::string_view name_of(QuantizationConfig::Method method);

// From the fields of config.json; method `none` when there is no quantization_config. Throws Error that names
// the file and the field, what was expected and what was found, for every form that is not supported.
QuantizationConfig read_quantization_config(const JsonFields& config);

}  // namespace chorale::io
