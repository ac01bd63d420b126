#include "io/linear_tensors.h"

#include <algorithm>
#include <string>

#include "base/element_rows.h"

namespace chorale::io {
namespace {

using Form = LinearTensors::Form;
using Method = QuantizationConfig::Method;

constexpr int64_t kPerWord = 8;
constexpr std::string_view kWeightSuffix = ".weight";

}  // namespace

std::string module_of(std::string_view name) {
  return std::string(name.ends_with(kWeightSuffix) ? name.substr(0, name.size() - kWeightSuffix.size())
                                                   : name);
}

uint64_t LinearTensors::bytes() const {
  uint64_t total = 0;
  for (const TensorEntry* tensor : all())
    if (tensor != nullptr) total += tensor->bytes.size();
  return total;
}

LinearTensors find_linear(const Checkpoint& checkpoint, const QuantizationConfig& config,
                          std::string_view name) {
  LinearTensors tensors{.weight = checkpoint.find(name)};
  if (config.method == Method::none || !name.ends_with(kWeightSuffix)) return tensors;

  const std::string module = module_of(name);
  if (config.method == Method::fp8) {
    tensors.scales = checkpoint.find(module + ".weight_scale_inv");
    const bool narrow = tensors.weight != nullptr && tensors.weight->dtype == DType::f8_e4m3;
    if (narrow || tensors.scales != nullptr) tensors.form = Form::fp8;
    return tensors;
  }
  const bool gptq = config.method == Method::gptq;
  const LinearTensors packed{.form = gptq ? Form::gptq : Form::awq,
                             .weight = checkpoint.find(module + ".qweight"),
                             .scales = checkpoint.find(module + ".scales"),
                             .zeros = checkpoint.find(module + ".qzeros"),
                             .groups = gptq ? checkpoint.find(module + ".g_idx") : nullptr};
  const auto parts = packed.all();
  const bool present =
      std::any_of(parts.begin(), parts.end(), [](const auto* part) { return part != nullptr; });
  return present ? packed : tensors;
}

int64_t parameters_of(const TensorEntry& tensor, const QuantizationConfig& config) {
  const auto elements = static_cast<int64_t>(tensor.bytes.size() / size_of(tensor.dtype));
  const std::string_view name = tensor.name;
  if (config.method == Method::fp8) return name.ends_with(".weight_scale_inv") ? 0 : elements;
  if (!config.is_int4()) return elements;
  if (name.ends_with(".qweight")) return elements * kPerWord;
  const bool helper = name.ends_with(".qzeros") || name.ends_with(".scales") || name.ends_with(".g_idx");
  return helper ? 0 : elements;
}

bool is_unused_bias(const Checkpoint& checkpoint, const QuantizationConfig& config,
                    const TensorEntry& tensor) {
  constexpr std::string_view kBias = ".bias";
  const std::string_view name = tensor.name;
  if (config.method != Method::gptq || !name.ends_with(kBias)) return false;
  const std::string weight = std::string(name.substr(0, name.size() - kBias.size())) + ".qweight";
  return checkpoint.find(weight) != nullptr && is_float_element(tensor.dtype) &&
         std::all_of(tensor.bytes.begin(), tensor.bytes.end(), [](std::byte b) { return b == std::byte{0}; });
}

}  // namespace chorale::io
