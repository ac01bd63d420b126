#include "server/http/request_parser.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <utility>

#include <boost/asio/buffer.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/parser.hpp>
#include <fmt/format.h>

namespace chorale::server {
namespace {

namespace http = boost::beast::http;
using BeastParser = http::request_parser<http::empty_body>;

constexpr uint64_t kMaxMethodBytes = 32;
constexpr int kMaxChunkSizeDigits = 16;  // 2^64 - 1
constexpr std::string_view kVersion = "HTTP/1.";
constexpr size_t kFirstBytes = 512;
constexpr size_t kMaxIdBytes = 200;

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

bool is_token(char c) {
  const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
  return letter || is_digit(c) ||
         (c != '\0' && std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos);
}

bool is_visible(char c) {
  return c > ' ' && c < '\x7f';
}

// What may stand in a field's value; bytes from 0x80 on, too.
bool is_text(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte == '\t' || (byte >= ' ' && byte != 0x7f);
}

char to_lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), to_lower);
  return out;
}

std::string_view to_view(boost::beast::string_view text) {
  return {text.data(), text.size()};
}

std::string media_type(std::string_view content_type) {
  std::string_view type = content_type.substr(0, content_type.find(';'));
  while (!type.empty() && (type.back() == ' ' || type.back() == '\t')) type.remove_suffix(1);
  return lower(type);
}

// "/a/b" of "/a/b?c" and of "http://host/a/b?c".
std::optional<std::string_view> path_of(std::string_view target) {
  if (target == "*") return target;
  target = target.substr(0, target.find('?'));
  if (target.starts_with('/')) return target;
  const size_t scheme = target.find("://");
  if (scheme == std::string_view::npos) return std::nullopt;
  const std::string name = lower(target.substr(0, scheme));
  if (name != "http" && name != "https") return std::nullopt;
  const size_t slash = target.find('/', scheme + 3);
  return slash == std::string_view::npos ? std::string_view("/") : target.substr(slash);
}

// A name or an address with or without a port. Empty is allowed, for targets without an authority.
bool is_host(std::string_view value) {
  return std::all_of(value.begin(), value.end(), [](char c) {
    return is_visible(c) && std::string_view("/\\?#@,<>\"{}|^`").find(c) == std::string_view::npos;
  });
}

// The token of "Bearer TOKEN"; empty for other schemes.
std::string_view bearer_token(std::string_view value) {
  constexpr std::string_view kScheme = "bearer ";
  if (lower(value.substr(0, kScheme.size())) != kScheme) return {};
  value.remove_prefix(kScheme.size());
  return value.substr(std::min(value.find_first_not_of(' '), value.size()));
}

// An assignment would keep the memory.
void release(std::string& text) {
  std::string().swap(text);
}

// Memory grows with what has arrived, not to what was announced, and never beyond `most`.
void append(std::string& to, std::string_view bytes, uint64_t most) {
  const size_t size = to.size() + bytes.size();
  if (size > to.capacity()) {
    std::string larger;
    larger.reserve(std::min<uint64_t>(most, std::max({size, 2 * to.capacity(), kFirstBytes})));
    larger += to;
    to = std::move(larger);
  }
  to += bytes;
}

// What a client calls its request, if it is plain text of a sensible length.
std::string request_id(std::string_view value) {
  const bool usable = value.size() <= kMaxIdBytes && std::all_of(value.begin(), value.end(), is_visible);
  return usable ? std::string(value) : "";
}

CorsRequest cors_request(const BeastParser& parser) {
  const auto& message = parser.get();
  CorsRequest cors;
  cors.origin = to_view(message[http::field::origin]);
  if (cors.origin.empty()) return cors;
  cors.method = to_view(message[http::field::access_control_request_method]);
  cors.headers = to_view(message[http::field::access_control_request_headers]);
  cors.private_network = to_view(message["Access-Control-Request-Private-Network"]) == "true";
  return cors;
}

// All values of a field, in lower case, separated by commas.
std::string joined(const BeastParser& parser, http::field name) {
  std::string values;
  const auto [first, last] = parser.get().equal_range(name);
  for (auto field = first; field != last; ++field) {
    if (field != first) values += ',';
    values += lower(to_view(field->value()));
  }
  return values;
}

size_t count(const BeastParser& parser, http::field name) {
  const auto [first, last] = parser.get().equal_range(name);
  return static_cast<size_t>(std::distance(first, last));
}

}  // namespace

// ---- the grammar

FieldLines::Step FieldLines::step(char byte) {
  switch (at_) {
    case At::line_start:
      if (byte == '\r') {
        at_ = At::last_line_feed;
        return Step::more;
      }
      at_ = At::name;
      return is_token(byte) ? Step::more : Step::bad;
    case At::name:
      if (byte == ':') {
        at_ = At::value;
        return Step::more;
      }
      return is_token(byte) ? Step::more : Step::bad;
    case At::value:
      if (byte == '\r') {
        at_ = At::line_feed;
        return Step::more;
      }
      return is_text(byte) ? Step::more : Step::bad;
    case At::line_feed:
      at_ = At::line_start;
      return byte == '\n' ? Step::more : Step::bad;
    case At::last_line_feed:
      return byte == '\n' ? Step::end : Step::bad;
  }
  return Step::bad;
}

RequestLine::Step RequestLine::step(char byte) {
  switch (at_) {
    case At::method:
      if (byte == ' ' && length_ > 0) {
        at_ = At::target;
        length_ = 0;
        return Step::more;
      }
      return is_token(byte) && ++length_ <= kMaxMethodBytes ? Step::more : Step::bad;
    case At::target:
      if (byte == ' ' && length_ > 0) {
        at_ = At::version;
        length_ = 0;
        return Step::more;
      }
      if (!is_visible(byte)) return Step::bad;
      return ++length_ <= max_target_bytes_ ? Step::more : Step::too_long;
    case At::version:
      return step_version(byte);
    case At::carriage_return:
      at_ = At::line_feed;
      return byte == '\r' ? Step::more : Step::bad;
    case At::line_feed:
      return byte == '\n' ? Step::end : Step::bad;
  }
  return Step::bad;
}

RequestLine::Step RequestLine::step_version(char byte) {
  if (length_ == kVersion.size()) {
    at_ = At::carriage_return;
    return byte == '0' || byte == '1' ? Step::more : Step::bad_version;
  }
  return byte == kVersion[length_++] ? Step::more : Step::bad_version;
}

ChunkFraming::Step ChunkFraming::step(char byte) {
  switch (at_) {
    case At::size:
      return step_size(byte);
    case At::extension:
      if (byte == '\r') {
        at_ = At::size_line_feed;
        return Step::more;
      }
      if (!is_text(byte)) return Step::bad;
      return extra_left_-- > 0 ? Step::more : Step::too_long;
    case At::size_line_feed:
      return byte == '\n' ? end_of_size_line() : Step::bad;
    case At::data_return:
      at_ = At::data_line_feed;
      return byte == '\r' ? Step::more : Step::bad;
    case At::data_line_feed:
      at_ = At::size;
      return byte == '\n' ? Step::more : Step::bad;
    case At::trailer:
      switch (trailer_.step(byte)) {
        case FieldLines::Step::end:
          return Step::end;
        case FieldLines::Step::bad:
          return Step::bad;
        case FieldLines::Step::more:
          break;
      }
      return extra_left_-- > 0 ? Step::more : Step::too_long;
  }
  return Step::bad;
}

ChunkFraming::Step ChunkFraming::step_size(char byte) {
  const char c = to_lower(byte);
  if (is_digit(c) || (c >= 'a' && c <= 'f')) {
    if (++digits_ > kMaxChunkSizeDigits) return Step::bad;
    size_ = size_ * 16 + static_cast<uint64_t>(is_digit(c) ? c - '0' : c - 'a' + 10);
    return Step::more;
  }
  if (digits_ == 0) return Step::bad;
  if (byte == '\r') {
    at_ = At::size_line_feed;
    return Step::more;
  }
  at_ = At::extension;
  return byte == ';' ? Step::more : Step::bad;
}

ChunkFraming::Step ChunkFraming::end_of_size_line() {
  data_left_ = std::exchange(size_, 0);
  digits_ = 0;
  at_ = data_left_ > 0 ? At::data_return : At::trailer;
  return data_left_ > 0 ? Step::data : Step::more;
}

// ---- requests

HttpRequestParser::HttpRequestParser(const HttpLimits& limits)
    : limits_(limits), request_line_(limits.max_target_bytes), chunks_(limits.max_header_bytes) {}

size_t HttpRequestParser::put(std::string_view bytes) {
  size_t used = 0;
  if (state_ == State::idle || state_ == State::header) {
    size_t kept_from = 0;
    bool ended = false;
    while (used < bytes.size() && !ended) {
      const bool was_idle = state_ == State::idle;
      ended = header_byte(bytes[used++]);
      if (was_idle) kept_from = state_ == State::idle ? used : used - 1;
    }
    if (state_ == State::failed) return used;
    append(header_, bytes.substr(kept_from, used - kept_from), limits_.max_header_bytes);
    if (ended) read_header();
    return used;
  }
  while (used < bytes.size() && state_ == State::body) {
    used += chunked_ ? put_chunked(bytes.substr(used)) : put_counted(bytes.substr(used));
  }
  return used;
}

size_t HttpRequestParser::held_bytes() const {
  return (header_.empty() ? 0 : header_.capacity()) + (request_.body.empty() ? 0 : request_.body.capacity());
}

void HttpRequestParser::fail(int status, std::string message) {
  state_ = State::failed;
  status_ = status;
  message_ = std::move(message);
  release(header_);
  release(request_.body);
}

bool HttpRequestParser::header_byte(char byte) {
  if (++header_bytes_ > limits_.max_header_bytes) {
    header_too_long();
    return true;
  }
  if (state_ == State::idle) {
    if (leading_return_) {
      leading_return_ = false;
      if (byte == '\n') return false;
      fail(400, "a line ends in a carriage return alone");
      return true;
    }
    if (byte == '\r') {
      leading_return_ = true;
      return false;
    }
    state_ = State::header;
  }
  return line_byte(byte);
}

bool HttpRequestParser::line_byte(char byte) {
  if (in_fields_) {
    const FieldLines::Step step = fields_.step(byte);
    if (step == FieldLines::Step::bad) fail(400, "a line of the header is malformed");
    return step != FieldLines::Step::more;
  }
  switch (request_line_.step(byte)) {
    case RequestLine::Step::more:
      return false;
    case RequestLine::Step::end:
      in_fields_ = true;
      return false;
    case RequestLine::Step::bad:
      fail(400, "this is not an HTTP/1.1 request");
      return true;
    case RequestLine::Step::bad_version:
      fail(400, "the version of HTTP must be 1.1 or 1.0");
      return true;
    case RequestLine::Step::too_long:
      fail(414, fmt::format("the request target is longer than {} bytes", limits_.max_target_bytes));
      return true;
  }
  return true;
}

void HttpRequestParser::header_too_long() {
  if (state_ == State::header && !in_fields_ && request_line_.in_target()) {
    fail(414, fmt::format("the request target does not fit a header of {} bytes", limits_.max_header_bytes));
  } else {
    fail(431, fmt::format("the request header is larger than {} bytes", limits_.max_header_bytes));
  }
}

void HttpRequestParser::read_header() {
  BeastParser parser;
  parser.header_limit(static_cast<uint32_t>(std::min<uint64_t>(header_.size() + 1, UINT32_MAX)));
  parser.body_limit(UINT64_MAX);  // it is judged here
  boost::system::error_code error;
  const size_t used = parser.put(boost::asio::buffer(header_), error);
  const bool agreed = !error && used == header_.size() && parser.is_header_done();
  release(header_);
  if (!agreed) {
    return fail(400, fmt::format("the request header is malformed: {}", error ? error.message() : "its end"));
  }
  const auto& message = parser.get();
  const auto value = [&](http::field name) { return to_view(message[name]); };
  is_http_1_1_ = message.version() >= 11;
  if (count(parser, http::field::host) > 1 || !is_host(value(http::field::host))) {
    return fail(400, "the Host header must name one host");
  }
  if (is_http_1_1_ && count(parser, http::field::host) == 0) return fail(400, "the Host header is missing");
  const std::optional<std::string_view> path = path_of(to_view(message.target()));
  if (!path) return fail(400, "the request target must be a path or an http URL");
  if (count(parser, http::field::authorization) > 1)
    return fail(400, "Authorization is given more than once");
  if (count(parser, http::field::content_length) > 1)
    return fail(400, "Content-Length is given more than once");
  const bool has_length = count(parser, http::field::content_length) > 0;
  const bool has_encoding = count(parser, http::field::transfer_encoding) > 0;
  if (has_length && has_encoding) return fail(400, "Content-Length and Transfer-Encoding exclude each other");
  if (has_encoding && !is_http_1_1_) return fail(400, "HTTP/1.0 has no Transfer-Encoding");

  keep_alive_ = parser.keep_alive();
  expects_continue_ = is_http_1_1_ && lower(value(http::field::expect)) == "100-continue";
  request_.method = to_view(message.method_string());
  request_.path = *path;
  request_.content_type = media_type(value(http::field::content_type));
  for (const std::string_view key :
       {bearer_token(value(http::field::authorization)), to_view(message["x-api-key"])}) {
    if (!key.empty()) request_.keys.emplace_back(key);
  }
  request_.id = request_id(to_view(message["X-Request-Id"]));
  request_.cors = cors_request(parser);
  has_header_ = true;
  state_ = State::body;
  const std::string coding = joined(parser, http::field::content_encoding);
  if (!coding.empty() && coding != "identity") {
    return fail(415, "the body must not be compressed: the only Content-Encoding that is read is identity");
  }
  if (has_encoding) {
    if (joined(parser, http::field::transfer_encoding) != "chunked")
      return fail(501, "the only Transfer-Encoding that is supported is chunked");
    chunked_ = true;
  } else if (has_length) {
    read_length(value(http::field::content_length));
  } else {
    state_ = State::complete;
  }
}

void HttpRequestParser::read_length(std::string_view text) {
  const char* end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, content_length_);
  if (text.empty() || !is_digit(text.front()) || at != end || error != std::errc{}) {
    content_length_ = 0;
    return fail(400, "Content-Length must be one decimal number");
  }
  if (content_length_ > limits_.max_body_bytes) {
    return fail(413, fmt::format("the request body is larger than {} bytes", limits_.max_body_bytes));
  }
  if (content_length_ == 0) state_ = State::complete;
}

size_t HttpRequestParser::put_counted(std::string_view bytes) {
  const size_t size = std::min<uint64_t>(bytes.size(), content_length_ - request_.body.size());
  append(request_.body, bytes.substr(0, size), content_length_);
  if (request_.body.size() == content_length_) state_ = State::complete;
  return size;
}

size_t HttpRequestParser::put_chunked(std::string_view bytes) {
  if (chunks_.remaining() > 0) {
    const size_t size = std::min<uint64_t>(bytes.size(), chunks_.remaining());
    append(request_.body, bytes.substr(0, size), limits_.max_body_bytes);
    chunks_.consume(size);
    return size;
  }
  size_t used = 0;
  while (used < bytes.size() && on_chunk(chunks_.step(bytes[used++]))) {
  }
  return used;
}

// True as long as no data and no end follows.
bool HttpRequestParser::on_chunk(ChunkFraming::Step step) {
  switch (step) {
    case ChunkFraming::Step::more:
      return true;
    case ChunkFraming::Step::data:
      if (chunks_.remaining() > limits_.max_body_bytes - request_.body.size()) {
        fail(413, fmt::format("the request body is larger than {} bytes", limits_.max_body_bytes));
      }
      return false;
    case ChunkFraming::Step::end:
      state_ = State::complete;
      return false;
    case ChunkFraming::Step::bad:
      fail(400, "the chunks of the request body are malformed");
      return false;
    case ChunkFraming::Step::too_long:
      fail(431, fmt::format("extensions and trailers of the chunks are larger than {} bytes",
                            limits_.max_header_bytes));
      return false;
  }
  return false;
}

}  // namespace chorale::server
