#include "server/wire/fields.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/log.h"
#include "server/wire/bad_request.h"

namespace chorale::server {

Fields::Fields(const Json& object, std::string path) : object_(&object), path_(std::move(path)) {
  if (!object.is_object()) bad_request(path_, "'{}' must be an object, not {}", path_, describe(object));
  known_.resize(object.size(), false);
}

std::string Fields::param(std::string_view name) const {
  return path_.empty() ? std::string(name) : path_ + "." + std::string(name);
}

const Json* Fields::get(std::string_view name) {
  size_t i = 0;
  for (const auto& [key, value] : object_->get_ref<const Json::object_t&>()) {
    if (key == name) {
      known_[i] = true;
      return value.is_null() ? nullptr : &value;
    }
    ++i;
  }
  return nullptr;
}

std::optional<double> Fields::number(std::string_view name, double lowest, double highest) {
  const Json* value = get(name);
  if (value == nullptr) return std::nullopt;
  return to_number(*value, param(name), lowest, highest);
}

std::optional<int64_t> Fields::integer(std::string_view name, int64_t lowest, int64_t highest) {
  const Json* value = get(name);
  if (value == nullptr) return std::nullopt;
  return to_integer(*value, param(name), lowest, highest);
}

std::optional<bool> Fields::boolean(std::string_view name) {
  const Json* value = get(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) {
    bad_request(param(name), "'{}' must be true or false, not {}", param(name), describe(*value));
  }
  return value->get<bool>();
}

std::optional<std::string> Fields::string(std::string_view name) {
  const Json* value = get(name);
  if (value == nullptr) return std::nullopt;
  return to_string(*value, param(name));
}

void Fields::accept(std::initializer_list<std::string_view> names) {
  for (const std::string_view name : names) get(name);
}

void Fields::refuse(std::string_view name, std::string_view why, const std::vector<Json>& neutral) {
  const Json* value = get(name);
  if (value == nullptr || std::find(neutral.begin(), neutral.end(), *value) != neutral.end()) return;
  bad_request(param(name), "'{}' is not supported: {}", param(name), why);
}

void Fields::finish() const {
  size_t i = 0;
  for (const auto& [key, value] : object_->get_ref<const Json::object_t&>()) {
    if (!known_[i++] && !value.is_null()) {
      const std::string name = param(cut_text(key, 80));
      log::warn_once(name, "requests have the field {}, which is unknown here and ignored", quote(name));
    }
  }
}

int64_t to_integer(const Json& value, const std::string& param, int64_t lowest, int64_t highest) {
  std::optional<int64_t> number;
  if (value.is_number_unsigned()) {
    const auto unsigned_value = value.get<uint64_t>();
    if (unsigned_value <= static_cast<uint64_t>(INT64_MAX)) number = static_cast<int64_t>(unsigned_value);
  } else if (value.is_number_integer()) {
    number = value.get<int64_t>();
  } else if (value.is_number_float()) {
    const double real = value.get<double>();
    if (std::nearbyint(real) == real && std::abs(real) < 9e15) number = static_cast<int64_t>(real);
    if (!number) bad_request(param, "'{}' must be a whole number, not {}", param, describe(value));
  } else {
    bad_request(param, "'{}' must be a whole number, not {}", param, describe(value));
  }
  if (!number || *number < lowest || *number > highest) {
    if (lowest == INT64_MIN && highest == INT64_MAX) {
      bad_request(param, "'{}' must fit into 64 bits, not {}", param, describe(value));
    }
    if (highest == INT64_MAX)
      bad_request(param, "'{}' must be at least {}, not {}", param, lowest, describe(value));
    bad_request(param, "'{}' must be from {} to {}, not {}", param, lowest, highest, describe(value));
  }
  return *number;
}

double to_number(const Json& value, const std::string& param, double lowest, double highest) {
  if (!value.is_number()) bad_request(param, "'{}' must be a number, not {}", param, describe(value));
  const double number = value.get<double>();
  if (!(number >= lowest && number <= highest)) {
    if (std::isinf(highest))
      bad_request(param, "'{}' must be at least {}, not {}", param, lowest, describe(value));
    bad_request(param, "'{}' must be from {} to {}, not {}", param, lowest, highest, describe(value));
  }
  return number;
}

const std::string& to_string(const Json& value, const std::string& param) {
  if (!value.is_string()) bad_request(param, "'{}' must be a string, not {}", param, describe(value));
  return value.get_ref<const std::string&>();
}

std::vector<int32_t> to_token_ids(const Json& value, const std::string& param, int64_t vocab_size) {
  if (!value.is_array())
    bad_request(param, "'{}' must be a list of token ids, not {}", param, describe(value));
  std::vector<int32_t> ids;
  ids.reserve(value.size());
  for (const Json& id : value) {
    // Named per element only on the way to a message: prompts are long.
    if (id.is_number_unsigned() && id.get<uint64_t>() < static_cast<uint64_t>(vocab_size)) {
      ids.push_back(static_cast<int32_t>(id.get<uint64_t>()));
    } else {
      ids.push_back(
          static_cast<int32_t>(to_integer(id, fmt::format("{}[{}]", param, ids.size()), 0, vocab_size - 1)));
    }
  }
  return ids;
}

}  // namespace chorale::server
