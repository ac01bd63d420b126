// Reads one HTTP/1.1 request from bytes as they come. No socket, no clock.
//
// Where a header and a body end is decided here, byte by byte, by a grammar that is stricter than what HTTP
// lets a server forgive: whoever stands between the client and this server cannot have seen other requests in
// the same bytes. Once a header is whole, Boost.Beast takes it apart; if the two do not agree about it, the
// request is refused. The result, errors included, does not depend on how the bytes are split.
//
// Refused, with the status in brackets:
//   lines that end in LF alone, a CR elsewhere, control characters, folded lines, field names that are not
//   tokens, versions other than HTTP/1.0 and 1.1, targets that are no path or http URL (400);
//   no Host in HTTP/1.1, more than one, one that is no host (400);
//   more than one Content-Length, also of equal values, and any that is not a decimal number below 2^64
//   (400); a Content-Encoding other than identity (415); Content-Length beside Transfer-Encoding,
//   Transfer-Encoding in HTTP/1.0 (400); a Transfer-Encoding other than "chunked" (501); chunk sizes that are
//   not 1 to 16 hexadecimal digits (400); what exceeds the limits (413, 414, 431), a body by its announced
//   length before any of it is read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "server/http/request.h"

namespace chorale::server {

// The lines of a header after the first, or of a trailer, up to the empty one.
class FieldLines {
 public:
  enum class Step { more, end, bad };
  Step step(char byte);

 private:
  enum class At { line_start, name, value, line_feed, last_line_feed };
  At at_ = At::line_start;
};

// METHOD TARGET HTTP/1.x
class RequestLine {
 public:
  enum class Step { more, end, bad, bad_version, too_long };
  explicit RequestLine(uint64_t max_target_bytes) : max_target_bytes_(max_target_bytes) {}
  Step step(char byte);
  bool in_target() const { return at_ == At::target; }

 private:
  enum class At { method, target, version, carriage_return, line_feed };
  Step step_version(char byte);
  uint64_t max_target_bytes_;
  uint64_t length_ = 0;  // bytes that have come of the part which is being read
  At at_ = At::method;
};

// What frames the data of a chunked body.
class ChunkFraming {
 public:
  enum class Step { more, data, end, bad, too_long };
  explicit ChunkFraming(uint64_t max_extra_bytes) : extra_left_(max_extra_bytes) {}
  // After `data`, remaining() bytes of data follow that are not for this function.
  Step step(char byte);
  uint64_t remaining() const { return data_left_; }
  void consume(uint64_t bytes) { data_left_ -= bytes; }

 private:
  enum class At { size, extension, size_line_feed, data_return, data_line_feed, trailer };
  Step step_size(char byte);
  Step end_of_size_line();
  uint64_t extra_left_;  // extensions and trailers are not kept, but neither are they without end
  uint64_t size_ = 0;    // as far as its digits are read
  int digits_ = 0;
  uint64_t data_left_ = 0;
  At at_ = At::size;
  FieldLines trailer_;
};

class HttpRequestParser {
 public:
  // idle: nothing but line breaks, which may precede a request (RFC 9112, 2.2).
  enum class State { idle, header, body, complete, failed };

  explicit HttpRequestParser(const HttpLimits& limits);

  // Takes bytes of the request and returns how many. It stops after the header, at the end of the request,
  // and at an error; after the header it is to be called again with what is left. Not to be called once it is
  // complete or has failed.
  size_t put(std::string_view bytes);

  State state() const { return state_; }
  // The header is known: body, complete, or failed after one of these.
  bool has_header() const { return has_header_; }

  // From here on: once has_header().
  const HttpRequest& request() const { return request_; }
  bool keep_alive() const { return keep_alive_; }
  bool is_http_1_1() const { return is_http_1_1_; }
  bool expects_continue() const { return expects_continue_; }
  // What Content-Length says; 0 without one.
  uint64_t announced_bytes() const { return chunked_ ? 0 : content_length_; }
  // Once complete; leaves the parser of no further use.
  HttpRequest take() { return std::move(request_); }

  // Once failed.
  int status() const { return status_; }
  const std::string& message() const { return message_; }

  // Memory that the request takes so far: never more than max_header_bytes before the end of the header, and
  // the same plus max_body_bytes after it.
  size_t held_bytes() const;

 private:
  void fail(int status, std::string message);
  // True when the header, or the request, has ended with this byte.
  bool header_byte(char byte);
  bool line_byte(char byte);
  void header_too_long();
  void read_header();
  void read_length(std::string_view text);
  size_t put_counted(std::string_view bytes);
  size_t put_chunked(std::string_view bytes);
  bool on_chunk(ChunkFraming::Step step);

  HttpLimits limits_;
  State state_ = State::idle;
  bool has_header_ = false;
  bool leading_return_ = false;  // the CR of a line break before the request
  bool in_fields_ = false;
  uint64_t header_bytes_ = 0;  // with the line breaks before it
  RequestLine request_line_;
  FieldLines fields_;
  std::string header_;

  HttpRequest request_;
  bool keep_alive_ = false;
  bool is_http_1_1_ = false;
  bool expects_continue_ = false;
  bool chunked_ = false;
  uint64_t content_length_ = 0;
  ChunkFraming chunks_;

  int status_ = 0;
  std::string message_;
};

}  // namespace chorale::server
