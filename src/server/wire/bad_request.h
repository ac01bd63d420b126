// The exception by which the parts that read a request say that it is the request's fault. It never leaves
// this folder: server/api.cpp turns it into an HTTP answer.
#pragma once

#include <exception>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"

namespace chorale::server {

class BadRequest : public std::exception {
 public:
  explicit BadRequest(RequestError error) : error_(std::move(error)) {}
  const char* what() const noexcept override { return error_.message.c_str(); }
  const RequestError& error() const { return error_; }

 private:
  RequestError error_;
};

// A 400 about the field `param` (empty: about the request as a whole).
template <typename... Args>
[[noreturn]] void bad_request(std::string param, fmt::format_string<Args...> format, Args&&... args) {
  throw BadRequest({400, fmt::format(format, std::forward<Args>(args)...), std::move(param)});
}

}  // namespace chorale::server
