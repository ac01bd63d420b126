// Any bytes are the same requests, or the same error after them, however they are split; never more than the
// limits is held; and what was read of a request, written down in its plainest form, is read as the same
// again. The first byte of the input says how the rest is split.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "server/http/request_parser.h"

namespace {

using chorale::server::HttpLimits;
using chorale::server::HttpRequest;
using chorale::server::HttpRequestParser;
using State = HttpRequestParser::State;

constexpr HttpLimits kLimits{.max_header_bytes = 512, .max_target_bytes = 128, .max_body_bytes = 256};

struct Outcome {
  std::vector<HttpRequest> requests;
  std::vector<bool> keep_alive;
  State state = State::idle;
  int status = 0;
  std::string message;
};

// Pieces of 1 + seed % 16 bytes, and other sizes as the seed goes on; 0: all at once.
size_t next_piece(uint32_t& seed) {
  seed = seed * 1664525U + 1013904223U;
  return 1 + (seed >> 24) % 16;
}

Outcome read_all(std::string_view bytes, uint32_t seed) {
  Outcome out;
  HttpRequestParser parser(kLimits);
  while (!bytes.empty()) {
    std::string_view piece = bytes.substr(0, seed == 0 ? bytes.size() : next_piece(seed));
    bytes.remove_prefix(piece.size());
    while (!piece.empty()) {
      const size_t used = parser.put(piece);
      CHORALE_CHECK(used > 0 && used <= piece.size(), "it took {} of {} bytes", used, piece.size());
      piece.remove_prefix(used);
      const uint64_t most = kLimits.max_header_bytes + (parser.has_header() ? kLimits.max_body_bytes : 0);
      CHORALE_CHECK(parser.held_bytes() <= most, "it holds {} bytes", parser.held_bytes());
      if (parser.state() == State::failed) {
        CHORALE_CHECK(parser.status() >= 400 && parser.status() < 600 && !parser.message().empty(),
                      "the error");
        out.state = State::failed;
        out.status = parser.status();
        out.message = parser.message();
        return out;
      }
      if (parser.state() != State::complete) continue;
      out.keep_alive.push_back(parser.keep_alive());
      out.requests.push_back(parser.take());
      parser = HttpRequestParser(kLimits);
    }
  }
  out.state = parser.state();
  return out;
}

bool is_same(const HttpRequest& a, const HttpRequest& b) {
  return a.method == b.method && a.path == b.path && a.content_type == b.content_type && a.keys == b.keys &&
         a.body == b.body;
}

void check_same(const Outcome& a, const Outcome& b) {
  CHORALE_CHECK(a.state == b.state && a.status == b.status && a.message == b.message, "\"{}\" and \"{}\"",
                a.message, b.message);
  CHORALE_CHECK(a.keep_alive == b.keep_alive, "keep_alive");
  CHORALE_CHECK(a.requests.size() == b.requests.size(), "{} and {}", a.requests.size(), b.requests.size());
  for (size_t i = 0; i < a.requests.size(); ++i) {
    CHORALE_CHECK(is_same(a.requests[i], b.requests[i]), "request {}", i);
  }
}

void check_plain_form(const HttpRequest& request) {
  const std::string bytes = request.method + " " + request.path +
                            " HTTP/1.1\r\nHost: x\r\nContent-Length: " + std::to_string(request.body.size()) +
                            "\r\n\r\n" + request.body;
  const Outcome again = read_all(bytes, 0);
  CHORALE_CHECK(again.requests.size() == 1 && again.state == State::idle,
                "the plain form is not one request");
  CHORALE_CHECK(again.requests[0].method == request.method && again.requests[0].path == request.path &&
                    again.requests[0].body == request.body,
                "the plain form is another request");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data + 1), size - 1);
  const Outcome whole = read_all(bytes, 0);
  check_same(whole, read_all(bytes, 1U + data[0]));
  for (const HttpRequest& request : whole.requests) check_plain_form(request);
  return 0;
}
