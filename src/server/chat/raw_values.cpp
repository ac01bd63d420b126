#include "server/chat/raw_values.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "server/chat/tool_grammar_writer.h"
#include "server/chat/tools.h"
#include "server/generation/json_schema.h"

namespace chorale::server {
namespace {

constexpr int kMaxSchemas = 256;  // looked at for one value: a schema may refer to itself
constexpr std::string_view kRest = "(?s:.*)";

// Reads one pattern into its alternatives, each with its anchors.
class PatternReader {
 public:
  // False: an anchor stands where it is not that of an alternative.
  bool read(std::string_view pattern) {
    begin();
    for (size_t i = 0; i < pattern.size(); ++i) {
      const char c = pattern[i];
      const bool is_last = i + 1 == pattern.size();
      if (c == '\\' && !is_last) {
        escape(pattern[++i]);
      } else if (in_class_ > 0) {
        in_class_ += (c == '[' ? 1 : 0) - (c == ']' ? 1 : 0);
        add(c);
      } else if (c == '|' && depth_ == 0) {
        end();
        begin();
      } else if (c == '^' && text_.empty() && depth_ == 0) {
        from_begin_ = true;
      } else if (c == '$' && depth_ == 0 && (is_last || pattern[i + 1] == '|')) {
        to_end_ = true;
      } else if (c == '^' || c == '$') {
        return false;
      } else {
        if (c == '[') begin_class(pattern, i);
        depth_ += (c == '(' ? 1 : 0) - (c == ')' ? 1 : 0);
        add(pattern[i]);
      }
    }
    end();
    return true;
  }

  const std::string& text() const { return all_; }

 private:
  void begin() {
    text_.clear();
    from_begin_ = to_end_ = false;
  }

  void end() {
    if (!all_.empty()) all_ += '|';
    all_ += fmt::format("{}(?:{}){}", from_begin_ ? "" : kRest, text_, to_end_ ? "" : kRest);
  }

  // A ] that comes first belongs to the class; `i` then moves on to it.
  void begin_class(std::string_view pattern, size_t& i) {
    in_class_ = 1;
    size_t next = i + 1;
    if (next < pattern.size() && pattern[next] == '^') ++next;
    if (next >= pattern.size() || pattern[next] != ']') return;
    text_ += pattern.substr(i, next - i);
    text_ += '\\';
    i = next;
  }

  // As JSON Schema means them, which is not as Unicode does.
  void escape(char c) {
    switch (c) {
      case 'd':
        text_ += "[0-9]";
        break;
      case 'D':
        text_ += "[^0-9]";
        break;
      case 'w':
        text_ += "[0-9a-zA-Z_]";
        break;
      case 'W':
        text_ += "[^0-9a-zA-Z_]";
        break;
      default:
        text_ += '\\';
        text_ += c;
    }
  }

  void add(char c) {
    switch (c) {
      case '/':
        text_ += "\\/";
        break;
      case '\n':
        text_ += "\\n";
        break;
      case '\r':
        text_ += "\\r";
        break;
      default:
        text_ += c;
    }
  }

  std::string all_;
  std::string text_;  // of the alternative
  bool from_begin_ = false;
  bool to_end_ = false;
  int depth_ = 0;
  int in_class_ = 0;
};

std::optional<uint64_t> length_of(const Json& schema, const char* name) {
  const auto found = schema.find(name);
  if (found == schema.end() || !found->is_number_unsigned()) return std::nullopt;
  return found->get<uint64_t>();
}

class RawValueReader {
 public:
  explicit RawValueReader(const Json& root) : root_(root) {}

  void read(const Json& schema) {
    if (!schema.is_object() || --budget_ < 0) {
      values_.any_text = true;
      return;
    }
    for (const char* name : {"enum", "const"}) {
      if (const auto found = schema.find(name); found != schema.end())
        return literals(*found, found.key() == "enum");
    }
    for (const char* name : {"anyOf", "oneOf", "allOf"}) {
      const auto list = schema.find(name);
      if (list == schema.end() || !list->is_array()) continue;
      const bool is_choice = std::string_view(name) != "allOf" || list->size() == 1;
      if (schema.size() > 1 || !is_choice) return other(schema);
      for (const Json& option : *list) read(option);
      return;
    }
    if (const auto reference = schema.find("$ref"); reference != schema.end()) {
      const Json* target = resolve_reference(*reference, root_);
      if (target == nullptr || schema.size() > 1) return other(schema);
      return read(*target);
    }
    typed(schema);
  }

  RawValues values() && { return std::move(values_); }

 private:
  void literals(const Json& value, bool is_list) {
    const auto literal = [this](const Json& one) {
      values_.texts.push_back(grammar_literal(one.is_string() ? one.get<std::string>() : to_text(one)));
    };
    if (!is_list) return literal(value);
    if (!value.is_array() || value.empty()) {
      values_.any_text = true;
      return;
    }
    std::ranges::for_each(value, literal);
  }

  void typed(const Json& schema) {
    const auto type = schema.find("type");
    if (type == schema.end()) {
      values_.any_text = true;
    } else if (type->is_array()) {
      for (const Json& one : *type) {
        Json single = schema;
        single["type"] = one;
        typed(single);
      }
    } else if (*type == "string") {
      string(schema);
    } else {
      values_.json.push_back(schema);
    }
  }

  void string(const Json& schema) {
    std::vector<std::string> conditions;
    const auto shortest = length_of(schema, "minLength");
    const auto longest = length_of(schema, "maxLength");
    if (shortest || longest) {
      conditions.push_back(fmt::format("/(?s:.{{{},{}}})/", shortest.value_or(0),
                                       longest ? std::to_string(*longest) : std::string()));
    }
    if (const auto pattern = schema.find("pattern"); pattern != schema.end() && pattern->is_string()) {
      if (auto whole = whole_text_pattern(pattern->get_ref<const std::string&>())) {
        conditions.push_back(std::move(*whole));
      }
    }
    if (conditions.empty()) {
      values_.any_text = true;
    } else {
      values_.texts.push_back(fmt::format("{}", fmt::join(conditions, " & ")));
    }
  }

  // Put together from several schemas: as JSON, where that is what it looks like.
  void other(const Json& schema) {
    const std::set<std::string> types = schema_types(schema, root_);
    if (types.empty() || types.contains("string")) {
      values_.any_text = true;
    } else {
      values_.json.push_back(schema);
    }
  }

  const Json& root_;
  int budget_ = kMaxSchemas;
  RawValues values_;
};

}  // namespace

RawValues raw_values(const Json& schema, const Json& root) {
  RawValueReader reader(root);
  reader.read(schema);
  return std::move(reader).values();
}

std::optional<std::string> whole_text_pattern(std::string_view pattern) {
  PatternReader reader;
  if (!reader.read(pattern)) return std::nullopt;
  return "/" + reader.text() + "/";
}

}  // namespace chorale::server
