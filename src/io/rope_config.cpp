#include "io/rope_config.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>

namespace chorale::io {
namespace {

using nlohmann::json;

constexpr NumberRange kPositive{.min = 0, .above_min = true};
constexpr double kDefaultTheta = 10000.0;
constexpr double kMostPositions = 0x1p31;

// The object with the scaling's parameters and its name, if config.json has one that is not empty.
struct Section {
  const json* object = nullptr;
  std::string_view name;
};

Section find_section(const JsonFields& fields) {
  Section found;
  for (const std::string_view name : {"rope_parameters", "rope_scaling"}) {
    const json* object = fields.find(name);
    if (object == nullptr) continue;
    if (!object->is_object()) fields.fail_value(name, "an object or null", *object);
    if (object->empty()) continue;
    if (found.object != nullptr && *found.object != *object) {
      fields.fail_value(name, "the same as in rope_parameters, or only one of the two", *object);
    }
    if (found.object == nullptr) found = {object, name};
  }
  return found;
}

void refuse_partial_rotation(const JsonFields& fields) {
  const std::optional<double> fraction = fields.optional_number("partial_rotary_factor", kPositive);
  if (fraction && *fraction != 1.0) fields.fail("partial_rotary_factor", "1.0", fmt::format("{}", *fraction));
}

RopeScaling::Type read_type(const JsonFields& section) {
  // transformers 5 writes rope_type, and 4 wrote both; older checkpoints have type alone.
  const std::string_view name = section.find("rope_type") != nullptr ? "rope_type" : "type";
  constexpr std::string_view kSupported = "\"default\", \"linear\" or \"yarn\"";
  const json* value = section.find(name);
  if (value == nullptr) {
    if (section.find("factor") != nullptr) section.fail_missing("rope_type", kSupported);
    return RopeScaling::Type::none;
  }
  if (*value == "default") return RopeScaling::Type::none;
  if (*value == "linear") return RopeScaling::Type::linear;
  if (*value == "yarn") return RopeScaling::Type::yarn;
  section.fail_value(name, kSupported, *value);
}

// transformers replaces an absent, null or zero beta by the paper's value.
double read_beta(const JsonFields& section, std::string_view name, double replacement) {
  const double beta = section.optional_number(name, {}).value_or(0.0);
  return beta == 0.0 ? replacement : beta;
}

void read_yarn(const JsonFields& fields, const JsonFields& section, ModelConfig& config) {
  RopeScaling& rope = config.rope_scaling;
  const auto longest = static_cast<double>(config.max_position_embeddings);
  // As in transformers, the outer field wins.
  std::optional<double> original = fields.optional_number("original_max_position_embeddings", kPositive);
  if (!original) original = section.optional_number("original_max_position_embeddings", kPositive);
  rope.original_max_position_embeddings = original.value_or(longest);
  const auto factor = section.optional_number("factor", kPositive);
  if (!factor && !original) section.fail_missing("factor", "a finite number above 0");
  rope.factor = factor.value_or(longest / rope.original_max_position_embeddings);
  const RopeScaling defaults;
  rope.beta_fast = read_beta(section, "beta_fast", defaults.beta_fast);
  rope.beta_slow = read_beta(section, "beta_slow", defaults.beta_slow);
  if (rope.beta_fast < rope.beta_slow) {
    section.fail("beta_fast", fmt::format("at least beta_slow ({})", rope.beta_slow),
                 fmt::format("{}", rope.beta_fast));
  }
  // max_position_embeddings is often the one without the scaling: who adds that leaves the rest as it is.
  if (original) {
    config.max_position_embeddings =
        std::max<int64_t>(2, std::llround(std::min(*original * rope.factor, kMostPositions)));
  }
  rope.attention_factor = section.optional_number("attention_factor", kPositive);
  rope.mscale = section.optional_number("mscale", {});
  rope.mscale_all_dim = section.optional_number("mscale_all_dim", {});
  rope.truncate = section.boolean_or("truncate", true);
}

}  // namespace

void read_rope(const JsonFields& fields, ModelConfig& config) {
  refuse_partial_rotation(fields);
  config.rope_theta = fields.number_or("rope_theta", kDefaultTheta, kPositive);
  config.rope_scaling = RopeScaling{};
  const Section found = find_section(fields);
  if (found.object == nullptr) return;

  const std::string prefix = fmt::format("{}.", found.name);
  const JsonFields section(*found.object, fields.source(), prefix);
  for (const auto& [name, value] : found.object->items()) {
    if (value.is_object()) section.fail_value(name, "one set of parameters for all layers", value);
  }
  refuse_partial_rotation(section);
  config.rope_theta = section.number_or("rope_theta", config.rope_theta, kPositive);
  RopeScaling& rope = config.rope_scaling;
  rope.type = read_type(section);
  if (rope.type == RopeScaling::Type::linear) rope.factor = section.number("factor", kPositive);
  if (rope.type == RopeScaling::Type::yarn) {
    read_yarn(fields, section, config);
    // Yarn divides by the logarithm of theta.
    if (config.rope_theta <= 1.0)
      section.fail("rope_theta", "a number above 1", fmt::format("{}", config.rope_theta));
  }
}

}  // namespace chorale::io
