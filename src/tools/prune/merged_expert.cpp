#include "tools/prune/merged_expert.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <string>

#include <fmt/format.h>

#include "base/error.h"
#include "base/float16.h"

namespace chorale::tools {
namespace {

// The float32 that, rounded further to 16 bits, gives what rounding the double at once would: cut off, and
// the last bit set when anything was cut.
float round_to_odd(double x) {
  const auto nearest = static_cast<float>(x);
  if (double{nearest} == x || std::isnan(x)) return nearest;
  const uint32_t bits = std::bit_cast<uint32_t>(nearest);
  return std::bit_cast<float>((std::abs(double{nearest}) > std::abs(x) ? bits - 1 : bits) | 1U);
}

template <typename Value, typename Encode>
std::vector<std::byte> encode_each(std::span<const Value> values, const Encode& encode_one) {
  using Stored = decltype(encode_one(values[0]));
  std::vector<std::byte> bytes(values.size() * sizeof(Stored));
  for (size_t i = 0; i < values.size(); ++i) {
    const Stored stored = encode_one(values[i]);
    std::memcpy(bytes.data() + i * sizeof(Stored), &stored, sizeof(Stored));
  }
  return bytes;
}

template <typename Value>
std::vector<std::byte> encode_values(std::span<const Value> values, DType dtype) {
  switch (dtype) {
    case DType::bf16:
      return encode_each(values, [](Value x) { return to_bf16(round_to_odd(x)); });
    case DType::f16:
      return encode_each(values, [](Value x) { return to_f16(round_to_odd(x)); });
    case DType::f32:
      return encode_each(values, [](Value x) { return static_cast<float>(x); });
    default:
      CHORALE_CHECK(false, "experts in {}", name_of(dtype));
  }
}

template <typename Stored, typename Decode>
void add_each(std::span<const std::byte> bytes, double weight, std::span<double> sum, const Decode& decode) {
  for (size_t i = 0; i < sum.size(); ++i) {
    Stored stored;
    std::memcpy(&stored, bytes.data() + i * sizeof(Stored), sizeof(Stored));
    sum[i] += weight * double{decode(stored)};
  }
}

// sum += weight * values
void add_weighted(std::span<const std::byte> values, DType dtype, double weight, std::span<double> sum) {
  CHORALE_CHECK(values.size() == sum.size() * size_of(dtype));
  switch (dtype) {
    case DType::bf16:
      return add_each<bf16>(values, weight, sum, [](bf16 x) { return to_float(x); });
    case DType::f16:
      return add_each<f16>(values, weight, sum, [](f16 x) { return to_float(x); });
    case DType::f32:
      return add_each<float>(values, weight, sum, [](float x) { return x; });
    default:
      CHORALE_CHECK(false, "experts in {}", name_of(dtype));
  }
}

// Each expert's share of the tokens; the same for all when there were none.
std::vector<double> shares(std::span<const int64_t> tokens) {
  const auto total = std::accumulate(tokens.begin(), tokens.end(), int64_t{0});
  std::vector<double> weights;
  for (const int64_t count : tokens) {
    weights.push_back(total == 0 ? 1.0 / static_cast<double>(tokens.size())
                                 : static_cast<double>(count) / static_cast<double>(total));
  }
  return weights;
}

class Averager {
 public:
  Averager(const io::Checkpoint& source, const io::ModelConfig& config, DType dtype, int64_t layer,
           std::span<const int64_t> tokens)
      : source_(source),
        config_(config),
        dtype_(dtype),
        prefix_(fmt::format("model.layers.{}.mlp.", layer)),
        weights_(shares(tokens)) {
    CHORALE_CHECK(weights_.size() == static_cast<size_t>(config.num_experts),
                  "layer {}: counts of {} experts", layer, weights_.size());
  }

  MergedExpert average() const { return {router(), matrix("gate"), matrix("up"), matrix("down")}; }

 private:
  std::vector<std::byte> router() const {
    const io::TensorEntry& tensor = source_.at(prefix_ + "gate.weight");
    const size_t row_bytes = tensor.bytes.size() / weights_.size();
    std::vector<double> sum(static_cast<size_t>(config_.hidden_size));
    for (size_t e = 0; e < weights_.size(); ++e) {
      if (weights_[e] > 0)
        add_weighted(tensor.bytes.subspan(e * row_bytes, row_bytes), tensor.dtype, weights_[e], sum);
    }
    source_.check_read();
    source_.release(tensor);
    return encode(sum, dtype_);
  }

  std::vector<std::byte> matrix(std::string_view which) const {
    std::vector<double> sum(static_cast<size_t>(config_.moe_intermediate_size * config_.hidden_size));
    for (size_t e = 0; e < weights_.size(); ++e) {
      if (weights_[e] <= 0) continue;  // not even a NaN of an expert that was never used counts
      const auto& tensor = source_.at(fmt::format("{}experts.{}.{}_proj.weight", prefix_, e, which));
      add_weighted(tensor.bytes, tensor.dtype, weights_[e], sum);
      source_.check_read();
      source_.release(tensor);
    }
    return encode(sum, dtype_);
  }

  const io::Checkpoint& source_;
  const io::ModelConfig& config_;
  DType dtype_;
  std::string prefix_;
  std::vector<double> weights_;
};

}  // namespace

std::vector<std::byte> encode(std::span<const double> values, DType dtype) {
  return encode_values(values, dtype);
}

std::vector<std::byte> encode(std::span<const float> values, DType dtype) {
  return encode_values(values, dtype);
}

DType expert_dtype(const io::Checkpoint& source, const io::ModelConfig& config) {
  int64_t layer = 0;
  while (layer < config.num_hidden_layers && !config.is_sparse_layer(layer)) ++layer;
  return source.at(fmt::format("model.layers.{}.mlp.experts.0.gate_proj.weight", layer)).dtype;
}

MergedExperts average_experts(const io::Checkpoint& source, const io::ModelConfig& config,
                              std::span<const ExpertScores> scores) {
  CHORALE_CHECK(scores.size() == static_cast<size_t>(config.num_hidden_layers));
  std::vector<std::vector<int64_t>> tokens;
  for (const ExpertScores& layer : scores) tokens.push_back(layer.tokens);
  const DType dtype = expert_dtype(source, config);
  return {.width = config.moe_intermediate_size,
          .dtype = dtype,
          .make = [&source, &config, dtype, tokens = std::move(tokens)](int64_t layer) {
            return Averager(source, config, dtype, layer, tokens[static_cast<size_t>(layer)]).average();
          }};
}

}  // namespace chorale::tools
