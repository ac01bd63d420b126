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

// Eight groups, of which :: may stand for one or more, and an IPv4 address for the last two.
std::string ipv6_pattern(const std::string& ipv4) {
  constexpr std::string_view kGroup = "[0-9A-Fa-f]{1,4}";
  const std::string last = fmt::format("({0}:{0}|{1})", kGroup, ipv4);
  std::string all = fmt::format("({}:){{6}}{}", kGroup, last);
  for (int before = 0; before <= 7; ++before) {  // groups before the ::
    all += '|';
    if (before > 0) all += fmt::format("{0}(:{0}){{{1}}}", kGroup, before - 1);
    all += "::";
    if (before <= 5) all += fmt::format("(({0}:){{0,{1}}}{2}|{0})?", kGroup, 5 - before, last);
    if (before == 6) all += fmt::format("({})?", kGroup);
  }
  return all;
}

// What a whole text of that format matches, without the bounds on lengths that some have; empty: a format
// that is not enforced. In JSON the engine has its own expressions for these.
std::string format_pattern(std::string_view format) {
  constexpr std::string_view kDate = "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])";
  constexpr std::string_view kTime =
      "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])";
  constexpr std::string_view kLabel = "[0-9A-Za-z]([0-9A-Za-z-]{0,61}[0-9A-Za-z])?";
  constexpr std::string_view kAtom = "[0-9A-Za-z!#$%&'*+\\/=?^_`{|}~-]+";
  constexpr std::string_view kByte = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
  const std::string host = fmt::format("{0}(\\.{0})*", kLabel);
  const std::string ipv4 = fmt::format("{0}(\\.{0}){{3}}", kByte);
  if (format == "date") return std::string(kDate);
  if (format == "time") return std::string(kTime);
  if (format == "date-time") return fmt::format("{}T{}", kDate, kTime);
  if (format == "duration") {
    return "P([0-9]+W|([0-9]+D|[0-9]+M([0-9]+D)?|[0-9]+Y([0-9]+M([0-9]+D)?)?)"
           "(T([0-9]+S|[0-9]+M([0-9]+S)?|[0-9]+H([0-9]+M([0-9]+S)?)?))?"
           "|T([0-9]+S|[0-9]+M([0-9]+S)?|[0-9]+H([0-9]+M([0-9]+S)?)?))";
  }
  if (format == "email") return fmt::format("{0}(\\.{0})*@{1}", kAtom, host);
  if (format == "hostname") return host;
  if (format == "ipv4") return ipv4;
  if (format == "ipv6") return ipv6_pattern(ipv4);
  if (format == "uuid") return "[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}";
  if (format == "uri") {
    constexpr std::string_view kCharacter = "([0-9A-Za-z._~:@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})";
    return fmt::format("[A-Za-z][0-9A-Za-z+.-]*:({0}|\\/)+(\\?({0}|[\\/?])*)?(#({0}|[\\/?])*)?", kCharacter);
  }
  return "";
}

// Where the group that begins at `open` ends; npos: nowhere.
size_t end_of_group(std::string_view pattern, size_t open) {
  int depth = 0;
  bool in_class = false;
  for (size_t i = open; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\') {
      ++i;
    } else if (in_class) {
      in_class = c != ']' || pattern[i - 1] == '[';
    } else if (c == '[') {
      in_class = true;
    } else if (c == '(') {
      ++depth;
    } else if (c == ')' && --depth == 0) {
      return i;
    }
  }
  return std::string_view::npos;
}

// The alternatives of a pattern, of which groups and classes are parts.
std::vector<std::string_view> alternatives_of(std::string_view pattern) {
  std::vector<std::string_view> out;
  size_t begin = 0;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\') {
      ++i;
    } else if (in_class) {
      in_class = c != ']' || pattern[i - 1] == '[';
    } else if (c == '[') {
      in_class = true;
    } else if (c == '(') {
      i = std::min(end_of_group(pattern, i), pattern.size());
    } else if (c == '|') {
      out.push_back(pattern.substr(begin, i - begin));
      begin = i + 1;
    }
  }
  out.push_back(pattern.substr(std::min(begin, pattern.size())));
  return out;
}

// The inside of a group that is all of the alternative, but for anchors that stand around it.
std::optional<std::string_view> inside_of_group(std::string_view alternative) {
  while (alternative.starts_with('^')) alternative.remove_prefix(1);
  if (!alternative.starts_with('(')) return std::nullopt;
  const size_t end = end_of_group(alternative, 0);
  if (end == std::string_view::npos || alternative.find_first_not_of('$', end + 1) != std::string_view::npos)
    return std::nullopt;
  std::string_view inside = alternative.substr(1, end - 1);
  if (inside.starts_with("?:")) inside.remove_prefix(2);
  return inside.starts_with('?') ? std::nullopt : std::optional(inside);
}

// The pattern without groups around whole alternatives, whose anchors become those of alternatives.
std::string without_outer_groups(std::string_view pattern, int depth = 0) {
  constexpr int kMaxDepth = 8;
  std::string out;
  for (const std::string_view alternative : alternatives_of(pattern)) {
    if (!out.empty()) out += '|';
    const auto inside = depth < kMaxDepth ? inside_of_group(alternative) : std::nullopt;
    if (!inside) {
      out += alternative;
      continue;
    }
    const std::string parts = without_outer_groups(*inside, depth + 1);
    for (const std::string_view part : alternatives_of(parts)) {
      if (!out.empty() && out.back() != '|') out += '|';
      if (alternative.starts_with('^') && !part.starts_with('^')) out += '^';
      out += part;
      if (alternative.ends_with('$') && !part.ends_with('$')) out += '$';
    }
  }
  return out;
}

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
    if (const auto format = schema.find("format"); format != schema.end() && format->is_string()) {
      const std::string whole = format_pattern(format->get_ref<const std::string&>());
      if (!whole.empty()) conditions.push_back(fmt::format("/(?:{})/", whole));
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
  if (reader.read(pattern)) return "/" + reader.text() + "/";
  PatternReader second;
  if (!second.read(without_outer_groups(pattern))) return std::nullopt;
  return "/" + second.text() + "/";
}

}  // namespace chorale::server
