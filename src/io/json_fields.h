// Typed, range-checked access to the fields of one JSON object from a file. A field that does not fit is an
// Error: SOURCE: field "NAME": expected ..., found ...
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/json_reader.h"

namespace chorale::io {

struct IntegerRange {
  int64_t min = 0;
  int64_t max = 0;
};

// Numbers from `min` (excluded when `above_min`) to `max`; always finite.
struct NumberRange {
  double min = 0;
  bool above_min = false;
  double max = 1e30;
};

inline constexpr IntegerRange kTokenIdRange{0, (int64_t{1} << 24) - 1};

// A view: the object, the source and the prefix must outlive it.
class JsonFields {
 public:
  // `prefix` stands before field names in messages, as in "rope_scaling.".
  JsonFields(const nlohmann::json& object, std::string_view source, std::string_view prefix = "")
      : object_(object), source_(source), prefix_(prefix) {}

  // nullptr when absent. A field that is null is absent, here and below.
  const nlohmann::json* find(std::string_view name) const;

  int64_t integer(std::string_view name, IntegerRange range) const;  // required
  int64_t integer_or(std::string_view name, int64_t absent, IntegerRange range) const;
  double number(std::string_view name, NumberRange range) const;  // required
  double number_or(std::string_view name, double absent, NumberRange range) const;
  bool boolean_or(std::string_view name, bool absent) const;

  // nullopt when absent.
  std::optional<int64_t> optional_integer(std::string_view name, IntegerRange range) const;
  std::optional<double> optional_number(std::string_view name, NumberRange range) const;
  std::optional<bool> optional_boolean(std::string_view name) const;
  std::optional<std::string> optional_string(std::string_view name) const;

  // Empty when absent.
  std::vector<int64_t> integers(std::string_view name, IntegerRange range) const;
  std::vector<int64_t> integer_or_list(std::string_view name, IntegerRange range) const;

  std::string_view source() const { return source_; }
  [[noreturn]] void fail(std::string_view name, std::string_view expected, std::string_view found) const;
  [[noreturn]] void fail_value(std::string_view name, std::string_view expected,
                               const nlohmann::json& found) const;
  [[noreturn]] void fail_missing(std::string_view name, std::string_view expected) const;

 private:
  int64_t to_integer(std::string_view name, const nlohmann::json& value, IntegerRange range) const;
  double to_number(std::string_view name, const nlohmann::json& value, NumberRange range) const;
  bool to_boolean(std::string_view name, const nlohmann::json& value) const;

  const nlohmann::json& object_;
  std::string_view source_;
  std::string_view prefix_;
};

}  // namespace chorale::io
