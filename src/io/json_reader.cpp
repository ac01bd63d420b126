#include "io/json_reader.h"

#include <utility>
#include <vector>

namespace chorale::io {
namespace {

using nlohmann::json;

constexpr size_t kMaxQuotedBytes = 120;
constexpr size_t kMaxSyntaxMessageBytes = 240;

std::string cut(std::string_view text, size_t max_bytes) {
  if (text.size() <= max_bytes) return std::string(text);
  return std::string(text.substr(0, max_bytes)) + "...";
}

// Printable ASCII as it is, every other byte as \xNN.
std::string escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c >= ' ' && c <= '~') {
      out += c;
    } else {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    }
  }
  return out;
}

// Builds the tree of values, as nlohmann's own builder does, but with limits and without duplicate keys.
class TreeBuilder {
 public:
  // `outermost` is array or object.
  TreeBuilder(std::string_view source, const JsonLimits& limits, json::value_t outermost)
      : source_(source), limits_(limits), outermost_(outermost) {}

  json take() { return std::move(root_); }

  bool null() { return add(nullptr); }
  bool boolean(bool value) { return add(value); }
  bool number_integer(json::number_integer_t value) { return add(value); }
  bool number_unsigned(json::number_unsigned_t value) { return add(value); }
  bool number_float(json::number_float_t value, const std::string&) { return add(value); }
  bool string(std::string& value) { return add(std::move(value)); }
  bool binary(json::binary_t&) { return false; }  // no such thing in JSON text
  bool start_object(size_t) { return open(json::object()); }
  bool start_array(size_t) { return open(json::array()); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }

  bool key(std::string& name) {
    const auto [position, inserted] = open_.back()->get_ref<json::object_t&>().emplace(name, nullptr);
    if (!inserted) throw_error("{}: field {}: expected once, found a duplicate key", source_, quote(name));
    slot_ = &position->second;
    last_key_ = std::move(name);
    return true;
  }

  bool parse_error(size_t position, const std::string&, const json::exception& exception) {
    const std::string near = last_key_.empty() ? "" : fmt::format(" (after key {})", quote(last_key_));
    throw_error("{}: invalid JSON at byte {}{}: {}", source_, position, near, syntax_message(exception));
  }

 private:
  bool add(json value) {
    place(std::move(value));
    return true;
  }

  bool open(json container) {
    if (open_.size() >= limits_.max_depth) {
      throw_error("{}: expected at most {} nested arrays and objects, found more", source_,
                  limits_.max_depth);
    }
    open_.push_back(place(std::move(container)));
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  json* place(json value) {
    if (++values_ > limits_.max_values) {
      throw_error("{}: expected at most {} JSON values, found more", source_, limits_.max_values);
    }
    if (open_.empty()) {
      if (value.type() != outermost_) {
        throw_error("{}: expected a JSON {}, found {}", source_,
                    outermost_ == json::value_t::array ? "array" : "object", describe(value));
      }
      root_ = std::move(value);
      return &root_;
    }
    if (json& container = *open_.back(); container.is_array()) {
      container.push_back(std::move(value));
      return &container.back();
    }
    *slot_ = std::move(value);
    return slot_;
  }

  std::string_view source_;
  JsonLimits limits_;
  json::value_t outermost_;
  json root_;
  // Containers from the outermost to the current one. They do not move: a container only grows while it is
  // the innermost, and then none of its elements is in this list.
  std::vector<json*> open_;
  json* slot_ = nullptr;  // where the value of the last key goes
  std::string last_key_;
  size_t values_ = 0;
};

}  // namespace

json parse_json_object(std::string_view text, std::string_view source, const JsonLimits& limits) {
  TreeBuilder builder(source, limits, json::value_t::object);
  run_json_parser(text, source, builder);
  return builder.take();
}

json parse_json_array(std::string_view text, std::string_view source, const JsonLimits& limits) {
  TreeBuilder builder(source, limits, json::value_t::array);
  run_json_parser(text, source, builder);
  return builder.take();
}

std::string quote(std::string_view text) {
  return fmt::format("\"{}\"", escape(cut(text, kMaxQuotedBytes)));
}

std::string describe(const json& value) {
  if (value.is_string()) return quote(value.get_ref<const std::string&>());
  if (value.is_array()) return fmt::format("an array of {} values", value.size());
  if (value.is_object()) return fmt::format("an object of {} fields", value.size());
  return value.dump();
}

std::string syntax_message(const json::exception& exception) {
  std::string_view text = exception.what();
  if (const size_t prefix = text.find("] "); text.starts_with('[') && prefix != std::string_view::npos) {
    text.remove_prefix(prefix + 2);
  }
  return escape(cut(text, kMaxSyntaxMessageBytes));
}

}  // namespace chorale::io
