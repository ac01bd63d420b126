#include "server/wire/json_body.h"

#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "base/log.h"
#include "server/wire/bad_request.h"

namespace chorale::server {
namespace {

constexpr size_t kMaxQuotedBytes = 80;
constexpr size_t kMaxSyntaxBytes = 200;

// Builds the tree as nlohmann's own builder does, but with limits and without duplicate keys. Members are
// appended to their object without a search: the search is the set's, since an ordered object would look
// through all of them.
class TreeBuilder {
 public:
  explicit TreeBuilder(const JsonBodyLimits& limits) : limits_(limits) {}

  Json take() { return std::move(root_); }

  bool null() { return add(nullptr); }
  bool boolean(bool value) { return add(value); }
  bool number_integer(Json::number_integer_t value) { return add(value); }
  bool number_unsigned(Json::number_unsigned_t value) { return add(value); }
  bool number_float(Json::number_float_t value, const std::string&) { return add(value); }
  bool string(std::string& value) { return add(std::move(value)); }
  bool binary(Json::binary_t&) { return false; }  // no such thing in JSON text
  bool start_object(size_t) { return open(Json::object()); }
  bool start_array(size_t) { return open(Json::array()); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }

  bool key(std::string& name) {
    if (!open_.back().keys.insert(name).second) {
      bad_request(cut_text(name, kMaxQuotedBytes), "the request body has the field {} twice", quote(name));
    }
    key_ = std::move(name);
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception& exception) {
    std::string_view why = exception.what();
    if (const size_t prefix = why.find("] "); prefix != std::string_view::npos) why.remove_prefix(prefix + 2);
    bad_request("", "the request body is not valid JSON (byte {}): {}", position,
                log::escape(cut_text(why, kMaxSyntaxBytes)));
  }

 private:
  struct Open {
    Json* container;
    std::unordered_set<std::string> keys;
  };

  bool add(Json value) {
    place(std::move(value));
    return true;
  }

  bool open(Json container) {
    if (open_.size() >= limits_.max_depth) {
      bad_request("", "the request body nests arrays and objects deeper than {} levels", limits_.max_depth);
    }
    Json* placed = place(std::move(container));
    open_.push_back({placed, {}});
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  // Containers in `open_` do not move: each grows only while it is the innermost.
  Json* place(Json value) {
    if (++values_ > limits_.max_values) {
      bad_request("", "the request body has more than {} JSON values", limits_.max_values);
    }
    if (open_.empty()) {
      if (!value.is_object())
        bad_request("", "the request body must be a JSON object, not {}", describe(value));
      root_ = std::move(value);
      return &root_;
    }
    Json& container = *open_.back().container;
    if (container.is_array()) {
      container.push_back(std::move(value));
      return &container.back();
    }
    append_member(container, std::move(key_), std::move(value));
    return &container.get_ref<Json::object_t&>().back().second;
  }

  JsonBodyLimits limits_;
  Json root_;
  std::vector<Open> open_;
  std::string key_;
  size_t values_ = 0;
};

// What a browser may send to another site without being asked is not JSON: so no web page can use this
// server.
void check_content_type(const HttpRequest& request) {
  const std::string& type = request.content_type;
  if (type.empty() || type == "application/json" || type.ends_with("+json")) return;
  throw BadRequest(ErrorAnswer{
      .status = 415, .message = fmt::format("the body must be application/json, not {}", quote(type))});
}

}  // namespace

Json parse_json_body(std::string_view text, const JsonBodyLimits& limits) {
  // nlohmann takes a NUL byte for the end of the input and would ignore what follows it.
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) {
    bad_request("", "the request body is not valid JSON: NUL at byte {}", nul);
  }
  TreeBuilder builder(limits);
  Json::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

Json parse_json_body(const HttpRequest& request) {
  check_content_type(request);
  return parse_json_body(request.body);
}

void append_member(Json& object, std::string name, Json value) {
  object.get_ref<Json::object_t&>().push_back({std::move(name), std::move(value)});
}

std::string to_text(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string describe(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      return "null";
    case Json::value_t::object:
      return "an object";
    case Json::value_t::array:
      return "an array";
    case Json::value_t::string:
      return "a string";
    default:
      return to_text(value);
  }
}

std::string cut_text(std::string_view text, size_t max_bytes) {
  if (text.size() <= max_bytes) return std::string(text);
  size_t end = max_bytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) --end;
  return std::string(text.substr(0, end)) + "...";
}

std::string quote(std::string_view text) {
  return fmt::format("'{}'", log::escape(cut_text(text, kMaxQuotedBytes)));
}

}  // namespace chorale::server
