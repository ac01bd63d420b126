#include "engine/machine_file.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "io/file_access.h"
#include "io/json_fields.h"
#include "io/json_reader.h"

namespace chorale::engine {
namespace {

using Json = nlohmann::json;

constexpr const char* kFormat = "chorale-machine-1";
constexpr uint64_t kMaxBytes = uint64_t{1} << 20;
constexpr size_t kMaxPoints = 256;
constexpr size_t kMaxText = 2000;
constexpr std::array kFields = {"format", "name",    "kind",         "instruction_set",
                                "cores",  "devices", "memory_bytes", "figures"};

std::string text_of(const io::JsonFields& fields, std::string_view name) {
  const std::optional<std::string> text = fields.optional_string(name);
  if (!text) fields.fail_missing(name, "a text");
  if (text->size() > kMaxText) fields.fail(name, fmt::format("at most {} bytes", kMaxText), "more");
  return *text;
}

double number_of(const io::JsonFields& fields, std::string_view name, const Json& value) {
  if (!value.is_number()) fields.fail_value(name, "pairs of numbers", value);
  return value.get<double>();
}

parallel::Curve read_curve(const Json& figures, const std::string& name, std::string_view source) {
  const io::JsonFields all(figures, source, "figures.");
  const Json* found = all.find(name);
  if (found == nullptr) all.fail_missing(name, "an object with source and points");
  if (!found->is_object()) all.fail_value(name, "an object with source and points", *found);
  const std::string prefix = fmt::format("figures.{}.", name);
  const io::JsonFields fields(*found, source, prefix);
  parallel::Curve curve;
  curve.source = text_of(fields, "source");
  const Json* points = fields.find("points");
  if (points == nullptr) fields.fail_missing("points", "pairs of numbers");
  if (!points->is_array() || points->size() > kMaxPoints)
    fields.fail_value("points", fmt::format("at most {} pairs of numbers", kMaxPoints), *points);
  for (const Json& point : *points) {
    if (!point.is_array() || point.size() != 2) fields.fail_value("points", "pairs of numbers", point);
    curve.points.emplace_back(number_of(fields, "points", point[0]), number_of(fields, "points", point[1]));
  }
  for (const auto& [key, value] : found->items())
    if (key != "source" && key != "points") fields.fail(key, "source and points alone", "this field");
  return curve;
}

void check_names(const Json& object, const Json& figures, const parallel::MachineProfile& machine,
                 std::string_view source) {
  const io::JsonFields fields(object, source);
  for (const auto& [key, value] : object.items())
    if (std::find(kFields.begin(), kFields.end(), key) == kFields.end())
      fields.fail(key, "no such field", "one");
  const auto curves = parallel::named_curves(machine);
  const io::JsonFields all(figures, source, "figures.");
  for (const auto& [key, value] : figures.items()) {
    const std::string& name = key;
    if (std::none_of(curves.begin(), curves.end(), [&](const auto& curve) { return curve.first == name; }))
      all.fail(name, "no such figure", "one");
  }
}

bool has_across(const Json& figures) {
  const auto& items = figures.items();
  return std::any_of(items.begin(), items.end(),
                     [](const auto& item) { return item.key().starts_with("across."); });
}

}  // namespace

std::string machine_to_json(const parallel::MachineProfile& machine) {
  nlohmann::ordered_json json = {{"format", kFormat},
                                 {"name", machine.name},
                                 {"kind", machine.kind},
                                 {"instruction_set", machine.instruction_set},
                                 {"cores", machine.cores},
                                 {"devices", machine.devices},
                                 {"memory_bytes", machine.memory}};
  // A line a figure: what people read and compare.
  std::string text = json.dump(2, ' ', false, Json::error_handler_t::replace);
  text.erase(text.rfind("\n}"));
  text += ",\n  \"figures\": {";
  const char* comma = "";
  for (const auto& [name, curve] : parallel::named_curves(machine)) {
    const nlohmann::ordered_json figure = {{"source", curve->source}, {"points", curve->points}};
    text += fmt::format("{}\n    \"{}\": {}", comma, name,
                        figure.dump(-1, ' ', false, Json::error_handler_t::replace));
    comma = ",";
  }
  return text + "\n  }\n}\n";
}

parallel::MachineProfile parse_machine(std::string_view text, std::string_view source) {
  const Json object = io::parse_json_object(text, source);
  const io::JsonFields fields(object, source);
  const std::string format = text_of(fields, "format");
  if (format != kFormat) fields.fail("format", io::quote(kFormat), io::quote(format));
  parallel::MachineProfile machine;
  machine.name = text_of(fields, "name");
  machine.kind = text_of(fields, "kind");
  machine.instruction_set = text_of(fields, "instruction_set");
  machine.cores = static_cast<int>(fields.integer("cores", {1, 65536}));
  machine.devices = static_cast<int>(fields.integer("devices", {1, 1024}));
  machine.memory = static_cast<uint64_t>(fields.integer("memory_bytes", {1, int64_t{1} << 50}));
  const Json* figures = fields.find("figures");
  if (figures == nullptr) fields.fail_missing("figures", "an object");
  if (!figures->is_object()) fields.fail_value("figures", "an object", *figures);
  // Names follow from whether there are links between nodes.
  if (has_across(*figures)) machine.across[0].latency.source = "-";
  check_names(object, *figures, machine, source);
  for (const auto& [name, curve] : parallel::named_curves(machine))
    *curve = read_curve(*figures, name, source);
  try {
    parallel::check_profile(machine);
  } catch (const Error& error) {
    throw_error("{}: {}", source, error.what());
  }
  return machine;
}

parallel::MachineProfile load_machine(const std::filesystem::path& file) {
  const std::string source = "--machine " + file.string();
  std::string text;
  try {
    text = io::read_text_file(file, kMaxBytes);
  } catch (const Error& error) {
    throw_error("--machine: {}", error.what());
  }
  return parse_machine(text, source);
}

}  // namespace chorale::engine
