#include "model/rope_frequencies.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace chorale::model {
namespace {

double magnitude_scale(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

double attention_factor(const io::RopeScaling& yarn) {
  if (yarn.attention_factor) return *yarn.attention_factor;
  // Zero counts as not given, as in transformers.
  if (yarn.mscale.value_or(0) != 0 && yarn.mscale_all_dim.value_or(0) != 0) {
    return magnitude_scale(yarn.factor, *yarn.mscale) / magnitude_scale(yarn.factor, *yarn.mscale_all_dim);
  }
  return magnitude_scale(yarn.factor, 1.0);
}

// The dimension whose frequency makes this many turns within the trained length (arXiv 2309.00071,
// section 3.2).
double correction_dimension(double turns, const io::ModelConfig& config) {
  const double length = config.rope_scaling.original_max_position_embeddings;
  return static_cast<double>(config.head_dim) * std::log(length / (turns * 2 * std::numbers::pi)) /
         (2 * std::log(config.rope_theta));
}

// Dimensions that turn often keep their frequency, those that turn seldom are interpolated, with a ramp
// between.
RopeFrequencies yarn_frequencies(const io::ModelConfig& config, const std::vector<double>& base) {
  const io::RopeScaling& yarn = config.rope_scaling;
  double low = correction_dimension(yarn.beta_fast, config);
  double high = correction_dimension(yarn.beta_slow, config);
  if (yarn.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(config.head_dim) - 1);
  if (low == high) high += 0.001;  // no division by zero

  RopeFrequencies result;
  result.scale = static_cast<float>(attention_factor(yarn));
  for (size_t i = 0; i < base.size(); ++i) {
    const double interpolated = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    result.values.push_back(
        static_cast<float>(base[i] / yarn.factor * interpolated + base[i] * (1 - interpolated)));
  }
  return result;
}

}  // namespace

RopeFrequencies rope_frequencies(const io::ModelConfig& config) {
  std::vector<double> base;
  for (int64_t i = 0; i < config.head_dim; i += 2) {
    base.push_back(
        std::pow(config.rope_theta, -static_cast<double>(i) / static_cast<double>(config.head_dim)));
  }
  if (config.rope_scaling.type == io::RopeScaling::Type::yarn) return yarn_frequencies(config, base);

  const double factor =
      config.rope_scaling.type == io::RopeScaling::Type::linear ? config.rope_scaling.factor : 1.0;
  RopeFrequencies result;
  for (const double frequency : base) result.values.push_back(static_cast<float>(frequency / factor));
  return result;
}

}  // namespace chorale::model
