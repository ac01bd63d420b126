#include "io/json_fields.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace chorale::io {
namespace {

using nlohmann::json;

std::string to_text(IntegerRange range) {
  return fmt::format("an integer from {} to {}", range.min, range.max);
}

std::string to_text(NumberRange range) {
  const bool open = range.max == NumberRange{}.max;
  return fmt::format("a finite number {} {}{}", range.above_min ? "above" : "from", range.min,
                     open ? (range.above_min ? "" : " up") : fmt::format(" to {}", range.max));
}

}  // namespace

const json* JsonFields::find(std::string_view name) const {
  const auto position = object_.find(name);
  return position == object_.end() || position->is_null() ? nullptr : &*position;
}

int64_t JsonFields::integer(std::string_view name, IntegerRange range) const {
  const json* value = find(name);
  if (value == nullptr) fail_missing(name, to_text(range));
  return to_integer(name, *value, range);
}

int64_t JsonFields::integer_or(std::string_view name, int64_t absent, IntegerRange range) const {
  const json* value = find(name);
  return value == nullptr ? absent : to_integer(name, *value, range);
}

double JsonFields::number(std::string_view name, NumberRange range) const {
  const json* value = find(name);
  if (value == nullptr) fail_missing(name, to_text(range));
  return to_number(name, *value, range);
}

double JsonFields::number_or(std::string_view name, double absent, NumberRange range) const {
  const json* value = find(name);
  return value == nullptr ? absent : to_number(name, *value, range);
}

bool JsonFields::boolean_or(std::string_view name, bool absent) const {
  const json* value = find(name);
  return value == nullptr ? absent : to_boolean(name, *value);
}

std::optional<int64_t> JsonFields::optional_integer(std::string_view name, IntegerRange range) const {
  const json* value = find(name);
  if (value == nullptr) return std::nullopt;
  return to_integer(name, *value, range);
}

std::optional<double> JsonFields::optional_number(std::string_view name, NumberRange range) const {
  const json* value = find(name);
  if (value == nullptr) return std::nullopt;
  return to_number(name, *value, range);
}

std::optional<bool> JsonFields::optional_boolean(std::string_view name) const {
  const json* value = find(name);
  if (value == nullptr) return std::nullopt;
  return to_boolean(name, *value);
}

std::optional<std::string> JsonFields::optional_string(std::string_view name) const {
  const json* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) fail_value(name, "a string", *value);
  return value->get<std::string>();
}

std::vector<int64_t> JsonFields::integers(std::string_view name, IntegerRange range) const {
  const json* value = find(name);
  if (value == nullptr) return {};
  if (!value->is_array()) fail_value(name, "an array of integers", *value);
  std::vector<int64_t> out;
  for (const json& element : *value) out.push_back(to_integer(name, element, range));
  return out;
}

std::vector<int64_t> JsonFields::integer_or_list(std::string_view name, IntegerRange range) const {
  const json* value = find(name);
  if (value == nullptr) return {};
  if (value->is_array()) return integers(name, range);
  return {to_integer(name, *value, range)};
}

void JsonFields::fail(std::string_view name, std::string_view expected, std::string_view found) const {
  throw_error("{}: field \"{}{}\": expected {}, found {}", source_, prefix_, name, expected, found);
}

void JsonFields::fail_value(std::string_view name, std::string_view expected, const json& found) const {
  fail(name, expected, describe(found));
}

void JsonFields::fail_missing(std::string_view name, std::string_view expected) const {
  fail(name, expected, object_.contains(name) ? "null" : "no such field");
}

int64_t JsonFields::to_integer(std::string_view name, const json& value, IntegerRange range) const {
  // Above int64 a value is unsigned in nlohmann's tree, and would wrap in a conversion.
  const bool fits = value.is_number_unsigned()
                        ? value.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max())
                        : value.is_number_integer();
  if (!fits) fail_value(name, to_text(range), value);
  const auto result = value.get<int64_t>();
  if (result < range.min || result > range.max) fail_value(name, to_text(range), value);
  return result;
}

double JsonFields::to_number(std::string_view name, const json& value, NumberRange range) const {
  if (!value.is_number()) fail_value(name, to_text(range), value);
  const auto result = value.get<double>();
  const bool above = range.above_min ? result > range.min : result >= range.min;
  if (!std::isfinite(result) || !above || result > range.max) fail_value(name, to_text(range), value);
  return result;
}

bool JsonFields::to_boolean(std::string_view name, const json& value) const {
  if (!value.is_boolean()) fail_value(name, "true or false", value);
  return value.get<bool>();
}

}  // namespace chorale::io
