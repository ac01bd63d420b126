// Reading and writing expert placements as JSON, and reading the load of experts.
#include <cstdint>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "parallel/expert_load.h"
#include "parallel/expert_placement.h"

namespace chorale::parallel {
namespace {

using nlohmann::json;

constexpr const char* kMap = "physical_to_logical_map";
constexpr const char* kCount = "logical_count";

// A value as errors show it. What is nested is not shown, as it may be nested too deep for that.
std::string shown(const json& value) {
  if (value.is_structured()) return fmt::format("an {}", value.type_name());
  const std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  return text.size() <= 40 ? text : text.substr(0, 40) + "...";
}

// The rows of a field; they are arrays. Widths are left to the placement.
const json& rows_of(const json& object, const char* field) {
  const json& rows = object.at(field);
  if (!rows.is_array())
    throw_error("{} is {}; it must be an array of one array per layer", field, shown(rows));
  for (size_t layer = 0; layer < rows.size(); ++layer)
    if (!rows[layer].is_array())
      throw_error("{} has {} for layer {}; it must be an array", field, shown(rows[layer]), layer);
  return rows;
}

std::vector<std::vector<int>> read_map(const json& object, int num_experts) {
  std::vector<std::vector<int>> map;
  for (const json& row : rows_of(object, kMap)) {
    std::vector<int>& layer = map.emplace_back();
    for (const json& value : row) {
      // Unsigned, as negative numbers are another kind in this library; compared before it becomes an int.
      if (!value.is_number_unsigned() || value.get<uint64_t>() >= static_cast<uint64_t>(num_experts))
        throw_error("{} has {} in layer {}; it must be an expert from 0 to {}", kMap, shown(value),
                    map.size() - 1, num_experts - 1);
      layer.push_back(value.get<int>());
    }
  }
  return map;
}

LoadRows read_count(const json& object) {
  LoadRows load;
  for (const json& row : rows_of(object, kCount)) {
    std::vector<double>& layer = load.emplace_back();
    for (const json& value : row) {
      if (!value.is_number() || value.get<double>() < 0)
        throw_error("{} has {} in layer {}; it must be a number of tokens", kCount, shown(value),
                    load.size() - 1);
      layer.push_back(value.get<double>());
    }
  }
  return load;
}

LoadRows read_load(std::string_view text, int num_layers, int num_experts) {
  const json object = json::parse(text, nullptr, false);
  if (object.is_discarded()) throw_error("this is not JSON");
  if (!object.is_object() || !object.contains(kCount))
    throw_error("it must be an object with the field {}", kCount);
  LoadRows load = read_count(object);
  if (static_cast<int>(load.size()) != num_layers)
    throw_error("{} has {} layers; the model has {}", kCount, load.size(), num_layers);
  for (size_t layer = 0; layer < load.size(); ++layer) {
    if (static_cast<int>(load[layer].size()) != num_experts)
      throw_error("{} has {} experts in layer {}; the model has {}", kCount, load[layer].size(), layer,
                  num_experts);
  }
  return load;
}

ExpertPlacement read(std::string_view text, const PlacementShape& shape, const EplbOptions& options) {
  const json object = json::parse(text, nullptr, false);
  if (object.is_discarded()) throw_error("this is not JSON");
  if (!object.is_object() || object.contains(kMap) == object.contains(kCount))
    throw_error("it must be an object with one of the fields {} and {}", kMap, kCount);
  if (object.contains(kMap)) return ExpertPlacement::from_map(shape, read_map(object, shape.num_experts));
  return ExpertPlacement::balanced(shape, read_count(object), options);
}

}  // namespace

ExpertPlacement ExpertPlacement::from_json(std::string_view text, std::string_view source,
                                           const PlacementShape& shape, const EplbOptions& options) {
  shape.slots_per_rank();  // the flags' faults are not the file's
  try {
    return read(text, shape, options);
  } catch (const Error& error) {
    throw_error("{}: {}", source, error.what());
  }
}

LoadRows read_expert_load(std::string_view text, std::string_view source, int num_layers, int num_experts) {
  try {
    return read_load(text, num_layers, num_experts);
  } catch (const Error& error) {
    throw_error("{}: {}", source, error.what());
  }
}

std::string ExpertPlacement::to_json() const {
  std::string text = fmt::format("{{\"{}\": [", kMap);
  for (int layer = 0; layer < num_layers(); ++layer)
    text += fmt::format("{}\n[{}]", layer == 0 ? "" : ",", fmt::join(physical_to_logical(layer), ", "));
  return text + "\n]}\n";
}

}  // namespace chorale::parallel
