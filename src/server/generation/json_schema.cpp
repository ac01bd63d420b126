#include "server/generation/json_schema.h"

#include <algorithm>
#include <array>
#include <functional>
#include <optional>
#include <set>
#include <string_view>
#include <unordered_set>
#include <utility>

#include <fmt/format.h>

#include "base/log.h"
#include "server/wire/bad_request.h"
#include "text/grammar.h"

namespace chorale::server {
namespace {

enum class Keyword {
  unknown,      // says nothing, or is the client's own
  value,        // enforced; its value has no schemas
  schema,       // enforced; a schema
  items,        // enforced; a schema or a list of them
  list,         // enforced; a list of schemas
  map,          // enforced; an object of schemas
  unsupported,  // known to JSON Schema, and not enforced
};

struct KeywordEntry {
  std::string_view name;
  Keyword keyword;
};

Keyword find_keyword(std::string_view name) {
  static constexpr std::array<KeywordEntry, 50> kKeywords = {{{"$anchor", Keyword::value},
                                                              {"$defs", Keyword::map},
                                                              {"$dynamicRef", Keyword::unsupported},
                                                              {"$id", Keyword::value},
                                                              {"$recursiveRef", Keyword::unsupported},
                                                              {"$ref", Keyword::value},
                                                              {"$schema", Keyword::value},
                                                              {"additionalItems", Keyword::schema},
                                                              {"additionalProperties", Keyword::schema},
                                                              {"allOf", Keyword::list},
                                                              {"anyOf", Keyword::list},
                                                              {"const", Keyword::value},
                                                              {"contains", Keyword::unsupported},
                                                              {"definitions", Keyword::map},
                                                              {"dependencies", Keyword::unsupported},
                                                              {"dependentRequired", Keyword::unsupported},
                                                              {"dependentSchemas", Keyword::unsupported},
                                                              {"else", Keyword::unsupported},
                                                              {"enum", Keyword::value},
                                                              {"exclusiveMaximum", Keyword::value},
                                                              {"exclusiveMinimum", Keyword::value},
                                                              {"format", Keyword::value},
                                                              {"id", Keyword::unknown},
                                                              {"if", Keyword::unsupported},
                                                              {"items", Keyword::items},
                                                              {"maxContains", Keyword::unsupported},
                                                              {"maxItems", Keyword::value},
                                                              {"maxLength", Keyword::value},
                                                              {"maxProperties", Keyword::value},
                                                              {"maximum", Keyword::value},
                                                              {"minContains", Keyword::unsupported},
                                                              {"minItems", Keyword::value},
                                                              {"minLength", Keyword::value},
                                                              {"minProperties", Keyword::value},
                                                              {"minimum", Keyword::value},
                                                              {"multipleOf", Keyword::value},
                                                              {"not", Keyword::unsupported},
                                                              {"oneOf", Keyword::list},
                                                              {"pattern", Keyword::value},
                                                              {"patternProperties", Keyword::map},
                                                              {"prefixItems", Keyword::list},
                                                              {"properties", Keyword::map},
                                                              {"propertyNames", Keyword::unsupported},
                                                              {"required", Keyword::value},
                                                              {"then", Keyword::unsupported},
                                                              {"type", Keyword::value},
                                                              {"unevaluatedItems", Keyword::unsupported},
                                                              {"unevaluatedProperties", Keyword::unsupported},
                                                              {"uniqueItems", Keyword::unsupported},
                                                              {"x-guidance", Keyword::unknown}}};
  const auto found = std::ranges::find(kKeywords, name, &KeywordEntry::name);
  return found == kKeywords.end() ? Keyword::unknown : found->keyword;
}

// Those that the engine knows.
bool is_enforced_format(std::string_view name) {
  constexpr std::array<std::string_view, 11> kFormats = {
      "date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri", "unknown"};
  return std::ranges::find(kFormats, name) != kFormats.end();
}

bool is_type(const Json& value) {
  constexpr std::array kTypes = {"null", "boolean", "number", "integer", "string", "array", "object"};
  return std::ranges::any_of(kTypes, [&](const char* type) { return value == type; });
}

bool is_schema(const Json& value) {
  return value.is_object() || value.is_boolean();
}

bool all_are(const Json& list, const std::function<bool(const Json&)>& holds) {
  return list.is_array() && std::ranges::all_of(list, holds);
}

// Whether a keyword's value is what JSON Schema wants there.
bool is_well_formed(const std::string& name, Keyword keyword, const Json& value) {
  const auto is_string = [](const Json& one) { return one.is_string(); };
  switch (keyword) {
    case Keyword::schema:
      return is_schema(value);
    case Keyword::items:
      return is_schema(value) || all_are(value, is_schema);
    case Keyword::list:
      return !value.empty() && all_are(value, is_schema);
    case Keyword::map:
      return value.is_object() &&
             std::ranges::all_of(value, [](const Json& one) { return is_schema(one) || one.is_null(); });
    default:
      break;
  }
  if (name == "type") return is_type(value) || (!value.empty() && all_are(value, is_type));
  if (name == "enum") return value.is_array() && !value.empty();
  if (name == "required") return all_are(value, is_string);
  if (name == "pattern" || name == "format" || name.starts_with('$')) return value.is_string();
  if (name == "multipleOf" || name == "minimum" || name == "maximum") return value.is_number();
  if (name.starts_with("exclusive")) return value.is_number() || value.is_boolean();
  if (name.starts_with("min") || name.starts_with("max")) return value.is_number_unsigned();
  return true;
}

bool has(const Json& schema, const char* name) {
  const auto found = schema.find(name);
  return found != schema.end() && !found->is_null();
}

bool is_all_of_several(Json::const_iterator list, const Json& schema) {
  return list != schema.end() && list->is_array() && list->size() > 1;
}

// Which objects of a schema are put together from several schemas, and which of its values are referred to.
class Survey {
 public:
  explicit Survey(const Json& root) : root_(root) { visit(root); }

  bool is_open(const Json& schema) const { return open_.contains(&schema); }

  // Whether a value, or one inside of it, is what a "$ref" stands for.
  bool is_target(const Json& value) const { return targets_.contains(&value); }
  bool has_target(const Json& value) const {
    return is_target(value) || (value.is_structured() && std::ranges::any_of(value, [this](const Json& one) {
                                  return has_target(one);
                                }));
  }

 private:
  void visit(const Json& schema) {
    if (!schema.is_structured()) return;
    if (schema.is_object()) {
      if (const auto reference = schema.find("$ref"); reference != schema.end()) {
        if (const Json* target = resolve_reference(*reference, root_)) targets_.insert(target);
      }
      find_open(schema);
    }
    for (const Json& part : schema) visit(part);
  }

  // The schemas that a value must match beside `schema` itself; those of "anyOf" and "oneOf" count as one
  // part.
  std::vector<std::vector<const Json*>> parts(const Json& schema) const {
    std::vector<std::vector<const Json*>> parts;
    if (!schema.is_object()) return parts;
    for (const char* name : {"anyOf", "oneOf", "allOf"}) {
      const auto list = schema.find(name);
      if (list == schema.end() || !list->is_array()) continue;
      std::vector<const Json*> options;
      for (const Json& option : *list) options.push_back(&option);
      if (std::string_view(name) != "allOf") {
        parts.push_back(std::move(options));
        continue;
      }
      for (const Json* option : options) parts.push_back({option});
    }
    if (const auto reference = schema.find("$ref"); reference != schema.end()) {
      if (const Json* target = resolve_reference(*reference, root_)) parts.push_back({target});
    }
    return parts;
  }

  // Whether a schema names members of objects. `budget`: schemas may refer to themselves.
  bool names_members(const Json& schema, int& budget) const {
    if (!schema.is_object() || --budget < 0) return false;
    if (has(schema, "properties")) return true;
    for (const auto& part : parts(schema)) {
      for (const Json* option : part) {
        if (names_members(*option, budget)) return true;
      }
    }
    return false;
  }

  void find_open(const Json& schema) {
    constexpr int kMaxSchemas = 256;
    if (const auto list = schema.find("allOf"); is_all_of_several(list, schema)) {
      for (const Json& option : *list) leave_open(option, true);
    }
    std::vector<std::vector<const Json*>> naming;
    if (has(schema, "properties")) naming.push_back({&schema});
    for (auto& part : parts(schema)) {
      int budget = kMaxSchemas;
      if (std::ranges::any_of(part, [&](const Json* one) { return names_members(*one, budget); })) {
        naming.push_back(std::move(part));
      }
    }
    if (naming.size() < 2) return;
    for (const auto& part : naming) {
      for (const Json* option : part) leave_open(*option, option != &schema);
    }
  }

  // Also what it is made of.
  void leave_open(const Json& schema, bool with_parts) {
    if (!schema.is_object() || !open_.insert(&schema).second || !with_parts) return;
    for (const auto& part : parts(schema)) {
      for (const Json* option : part) leave_open(*option, true);
    }
  }

  const Json& root_;
  std::set<const Json*> open_;
  std::set<const Json*> targets_;
};

class SchemaReader {
 public:
  SchemaReader(const Json& root, SchemaForm form) : root_(root), form_(form), survey_(root) {}

  Json schema(const Json& in) {
    if (!in.is_object()) return in;
    Json out = Json::object();
    for (const auto& [name, value] : in.items()) {
      if (value.is_null() && name != "const") continue;
      member(in, name, value, out);
    }
    if (has(out, "properties")) close(in, out);
    return out;
  }

  std::vector<SchemaFault> left_out() && { return std::move(left_out_); }

 private:
  void member(const Json& in, const std::string& name, const Json& value, Json& out) {
    const Keyword keyword = find_keyword(name);
    if (keyword == Keyword::unknown) {
      if (name != "x-guidance" && survey_.has_target(value)) out[name] = container(value, name);
      return;
    }
    if (keyword == Keyword::unsupported) return unsupported(in, name, value, out);
    if (form_ == SchemaForm::forgiving && !is_well_formed(name, keyword, value)) {
      return leave_out(name, "its value is malformed");
    }
    switch (keyword) {
      case Keyword::schema:
        out[name] = at(name, [&] { return schema(value); });
        break;
      case Keyword::items:
      case Keyword::list:
      case Keyword::map: {
        const bool is_several = name == "allOf" && value.is_array() && value.size() > 1;
        if (is_several) ++all_of_depth_;
        out[name] = at(name, [&] { return schemas(name, value); });
        if (is_several) --all_of_depth_;
        break;
      }
      default:
        plain(name, value, out);
    }
  }

  // A keyword without schemas.
  void plain(const std::string& name, const Json& value, Json& out) {
    if (value.is_string()) {
      const auto& text = value.get_ref<const std::string&>();
      if (name == "format" && !is_enforced_format(text)) return leave_out(name, quote(text));
      if (name == "pattern") {
        if (auto why = text::unsupported_pattern(text)) return leave_out(name, std::move(*why));
      }
      if (name == "$ref" && is_nowhere(text)) return leave_out(name, quote(text));
    }
    out[name] = value;
  }

  // Whether the engine can find what a reference stands for. It takes no other documents.
  bool is_nowhere(const std::string& reference) const {
    if (!reference.starts_with('#')) return true;
    if (form_ == SchemaForm::exact || (reference.size() > 1 && reference[1] != '/')) return false;
    return resolve_reference(reference, root_) == nullptr;
  }

  void unsupported(const Json& in, const std::string& name, const Json& value, Json& out) {
    const bool needs_if = (name == "then" || name == "else") && !has(in, "if");
    const bool needs_contains = (name == "minContains" || name == "maxContains") && !has(in, "contains");
    const bool says_nothing =
        name == "uniqueItems" ? value == false : value == true || value == Json::object();
    if (needs_if || needs_contains || (says_nothing && name != "not")) return;
    const bool is_alone = !has(in, "allOf") && !has(in, "anyOf") && !has(in, "oneOf") && !has(in, "$ref");
    if (name == "unevaluatedProperties" && value == false && is_alone && !has(in, "additionalProperties")) {
      out["additionalProperties"] = false;
    } else {
      leave_out(name, "");
    }
  }

  Json schemas(const std::string& keyword, const Json& value) {
    if (!value.is_structured() || (keyword == "items" && value.is_object())) return schema(value);
    Json out = value.is_array() ? Json::array() : Json::object();
    size_t index = 0;
    for (const auto& [key, one] : value.items()) {
      const std::string step = value.is_array() ? std::to_string(index++) : key;
      if (value.is_object() && one.is_null()) continue;
      if (keyword == "patternProperties") {
        if (auto why = text::unsupported_pattern(key)) {
          leave_out(keyword, std::move(*why));
          continue;
        }
      }
      Json ready = at(step, [&, &element = one] { return schema(element); });
      if (value.is_array()) {
        out.push_back(std::move(ready));
      } else {
        append_member(out, key, std::move(ready));
      }
    }
    return out;
  }

  // What stands under an unknown keyword is kept as far as it is referred to.
  Json container(const Json& value, const std::string& step) {
    return at(step, [&] {
      if (survey_.is_target(value)) return schema(value);
      Json out = value.is_array() ? Json::array() : Json::object();
      for (const auto& [key, one] : value.items()) {
        const bool needed = survey_.has_target(one);
        if (value.is_array()) {
          out.push_back(needed ? container(one, key) : Json(true));
        } else if (needed) {
          append_member(out, key, container(one, key));
        }
      }
      return out;
    });
  }

  // An object with properties has no others, where it says nothing about them. Those that are required but
  // not described may be anything.
  void close(const Json& in, Json& out) {
    const bool is_closed = out.contains("additionalProperties") && out["additionalProperties"] == false;
    const bool says_it =
        has(in, "additionalProperties") || has(in, "patternProperties") || has(in, "unevaluatedProperties");
    if (!is_closed && (says_it || all_of_depth_ > 0 || survey_.is_open(in))) return;
    if (!out["properties"].is_object()) return;
    out["additionalProperties"] = false;
    if (!out.contains("required") || !out["required"].is_array()) return;
    if (has(in, "patternProperties")) return;
    Json& properties = out["properties"];
    std::unordered_set<std::string> known;
    for (const auto& [name, schema] : properties.items()) known.insert(name);
    for (const Json& name : out["required"]) {
      if (!name.is_string() || !known.insert(name.get<std::string>()).second) continue;
      append_member(properties, name.get<std::string>(), true);
    }
  }

  void leave_out(const std::string& keyword, std::string why) {
    left_out_.push_back({fmt::format("{}", fmt::join(path_, ".")), keyword, std::move(why)});
  }

  Json at(const std::string& step, const std::function<Json()>& read) {
    path_.push_back(step);
    Json out = read();
    path_.pop_back();
    return out;
  }

  const Json& root_;
  SchemaForm form_;
  Survey survey_;
  int all_of_depth_ = 0;
  std::vector<std::string> path_;
  std::vector<SchemaFault> left_out_;
};

}  // namespace

ReadySchema ready_schema(const Json& schema, SchemaForm form) {
  SchemaReader reader(schema, form);
  Json ready = reader.schema(schema);
  return {std::move(ready), std::move(reader).left_out()};
}

const Json* resolve_reference(const Json& reference, const Json& root) {
  if (!reference.is_string()) return nullptr;
  const std::string& text = reference.get_ref<const std::string&>();
  if (!text.starts_with('#')) return nullptr;
  try {
    const Json::json_pointer pointer(text.substr(1));
    return root.contains(pointer) ? &root.at(pointer) : nullptr;
  } catch (const Json::exception&) {  // not a pointer
    return nullptr;
  }
}

void tell_left_out(const std::vector<SchemaFault>& left_out, bool strict, const std::string& name,
                   const std::string& param) {
  for (const SchemaFault& fault : left_out) {
    const std::string where = fault.path.empty() ? name : fmt::format("{}, at {}", name, quote(fault.path));
    const std::string why = fault.why.empty() ? "" : fmt::format(" ({})", cut_text(fault.why, 200));
    if (strict) {
      bad_request(param, "'{}' of {} cannot be enforced{}, but 'strict' is true", fault.keyword, where, why);
    }
    log::warn_once("schema " + fault.keyword,
                   "{}: '{}' cannot be enforced{} and is left out, as in all schemas", where, fault.keyword,
                   why);
  }
}

}  // namespace chorale::server
