#include "io/linear_checks.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include <fmt/ranges.h>

#include "base/element_rows.h"
#include "base/error.h"
#include "base/math.h"

namespace chorale::io {
namespace {

using Form = LinearTensors::Form;

constexpr int64_t kPerWord = 8;

std::string describe_shape(std::span<const int64_t> shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

// Checks single tensors of one checkpoint.
class TensorChecks {
 public:
  explicit TensorChecks(const Checkpoint& checkpoint) : path_(checkpoint.path().string()) {}

  [[noreturn]] void fail(const TensorEntry& tensor, std::string_view expected, std::string_view found) const {
    throw_error("{}: tensor \"{}\" in {}: expected {}, found {}", path_, tensor.name, tensor.file, expected,
                found);
  }

  void shape(const TensorEntry* tensor, const std::string& name, std::span<const int64_t> expected) const {
    if (tensor == nullptr) {
      throw_error("{}: tensor \"{}\": expected with shape {}, found none", path_, name,
                  describe_shape(expected));
    }
    if (!std::equal(expected.begin(), expected.end(), tensor->shape.begin(), tensor->shape.end())) {
      fail(*tensor, fmt::format("shape {} as config.json says", describe_shape(expected)),
           describe_shape(tensor->shape));
    }
  }

  void dtype(const TensorEntry& tensor, DType expected) const {
    if (tensor.dtype != expected) fail(tensor, name_of(expected), name_of(tensor.dtype));
  }

  void floats(const TensorEntry& tensor) const {
    if (!is_float_element(tensor.dtype)) fail(tensor, "bfloat16, float16 or float32", name_of(tensor.dtype));
  }

 private:
  std::string path_;
};

void check_fp8(const TensorChecks& check, const QuantizationConfig& config, const LinearTensors& tensors,
               const std::string& module, std::span<const int64_t> shape) {
  check.shape(tensors.weight, module + ".weight", shape);
  check.dtype(*tensors.weight, DType::f8_e4m3);
  const std::array<int64_t, 2> blocks = {ceil_div(shape[0], config.block_rows),
                                         ceil_div(shape[1], config.block_columns)};
  check.shape(tensors.scales, module + ".weight_scale_inv", blocks);
  check.floats(*tensors.scales);
}

void check_int4(const TensorChecks& check, const QuantizationConfig& config, const LinearTensors& tensors,
                const std::string& module, std::span<const int64_t> shape) {
  const int64_t n = shape[0];
  const int64_t k = shape[1];
  const int64_t group_size = group_size_of(config, k);
  const bool gptq = tensors.form == Form::gptq;
  if (tensors.weight != nullptr && (n % kPerWord != 0 || (gptq && k % kPerWord != 0))) {
    check.fail(*tensors.weight, "a matrix whose sizes are multiples of 8", describe_shape(shape));
  }
  if (tensors.weight != nullptr && !gptq && k % group_size != 0) {
    check.fail(*tensors.weight, fmt::format("inputs in whole groups of {} (group_size)", group_size),
               fmt::format("{} inputs", k));
  }
  const std::array<int64_t, 2> words = {gptq ? k / kPerWord : k, gptq ? n : n / kPerWord};
  const int64_t groups = ceil_div(k, group_size);
  check.shape(tensors.weight, module + ".qweight", words);
  check.dtype(*tensors.weight, DType::i32);
  check.shape(tensors.zeros, module + ".qzeros", std::array{groups, n / kPerWord});
  check.dtype(*tensors.zeros, DType::i32);
  check.shape(tensors.scales, module + ".scales", std::array{groups, n});
  check.floats(*tensors.scales);
  if (tensors.groups != nullptr || (gptq && config.desc_act && groups > 1)) {
    check.shape(tensors.groups, module + ".g_idx", std::array{k});
    check.dtype(*tensors.groups, DType::i32);
  }
}

}  // namespace

void check_linear(const Checkpoint& checkpoint, const QuantizationConfig& config,
                  const LinearTensors& tensors, std::string_view name, std::span<const int64_t> shape) {
  const TensorChecks check(checkpoint);
  if (tensors.form == Form::plain) {
    check.shape(tensors.weight, std::string(name), shape);
    return check.floats(*tensors.weight);
  }
  const std::string module = module_of(name);
  const auto parts = tensors.all();
  const TensorEntry& first =
      **std::find_if(parts.begin(), parts.end(), [](const auto* p) { return p != nullptr; });
  if (shape.size() != 2) check.fail(first, "none of a quantized weight, for this is a vector", "one");
  if (config.leaves_plain(module)) {
    check.fail(first, "a plain weight, as modules_to_not_convert in config.json says", "a quantized one");
  }
  if (tensors.form == Form::fp8)
    check_fp8(check, config, tensors, module, shape);
  else
    check_int4(check, config, tensors, module, shape);
}

int64_t group_size_of(const QuantizationConfig& config, int64_t columns) {
  return config.group_size < 0 ? columns : config.group_size;
}

std::vector<int32_t> groups_out_of_order(const Checkpoint& checkpoint, const LinearTensors& tensors,
                                         int64_t group_size) {
  if (tensors.groups == nullptr) return {};
  const TensorEntry& entry = *tensors.groups;
  const int64_t count = entry.shape[0];
  std::vector<int32_t> groups(static_cast<size_t>(count));
  std::memcpy(groups.data(), entry.bytes.data(), entry.bytes.size());
  checkpoint.release(entry);
  const int64_t num_groups = ceil_div(count, group_size);
  bool in_order = true;
  for (int64_t k = 0; k < count; ++k) {
    const int64_t group = groups[static_cast<size_t>(k)];
    if (group < 0 || group >= num_groups) {
      TensorChecks(checkpoint)
          .fail(entry, fmt::format("groups from 0 to {}", num_groups - 1),
                fmt::format("group {} of input {}", group, k));
    }
    in_order = in_order && group == k / group_size;
  }
  if (in_order) groups.clear();
  return groups;
}

}  // namespace chorale::io
