// The exception by which the parts that read a request say that it is the request's fault. It never leaves
// the server: failure_response() makes it an HTTP answer.
#pragma once

#include <exception>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"
#include "server/wire/error_answer.h"

namespace chorale::server {

class BadRequest : public std::exception {
 public:
  explicit BadRequest(ErrorAnswer answer) : answer_(std::move(answer)) {}
  explicit BadRequest(RequestError error) : answer_(answer_to(std::move(error))) {}
  const char* what() const noexcept override { return answer_.message.c_str(); }
  const ErrorAnswer& answer() const { return answer_; }

 private:
  ErrorAnswer answer_;
};

// A 400 about the field `param` (empty: about the request as a whole).
template <typename... Args>
[[noreturn]] void bad_request(std::string param, fmt::format_string<Args...> format, Args&&... args) {
  throw BadRequest(
      ErrorAnswer{.message = fmt::format(format, std::forward<Args>(args)...), .param = std::move(param)});
}

// A 400 about `param`: its prompt and what is to follow it have too many tokens. The message is to have the
// words that clients look for, "maximum context length is N tokens".
template <typename... Args>
[[noreturn]] void too_long(std::string param, std::optional<ContextOverflow> overflow,
                           fmt::format_string<Args...> format, Args&&... args) {
  throw BadRequest(ErrorAnswer{.message = fmt::format(format, std::forward<Args>(args)...),
                               .param = std::move(param),
                               .code = kContextLengthExceeded,
                               .overflow = overflow});
}

// What a request is called in the log, and how its client is told of errors.
struct RequestLabel {
  std::string name;
  ErrorForm errors = ErrorForm::openai;
};

// The answer to the exception that is being handled. One that is no BadRequest is the server's own fault: the
// client learns no more than that, the log all.
HttpResponse failure_response(const RequestLabel& request);

}  // namespace chorale::server
