// The four kinds of error, and how each is told.
//
//   a request's fault          RequestError, returned by value, never thrown across the engine
//   unusable files or flags    Error, thrown before large allocations; its text names the file, tensor or
//                              flag, what was expected and what was found
//   a programmer's fault       CHORALE_CHECK: prints the condition and aborts
//   a failed collective        comm::CollectiveError, which names the rank: the model has failed, and the
//                              process ends
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

namespace chorale {

// Unusable weights, config or flags. The message is one or more plain sentences for the person at the
// terminal.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

template <typename... Args>
[[noreturn]] void throw_error(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

// Why one request is refused, or came to no end.
struct RequestError {
  enum class Kind {
    invalid,      // what it asks for cannot be had, however often it is tried
    too_long,     // so it is, because the prompt and what is to follow it have too many tokens
    overloaded,   // too much waits already: it may be tried again
    unavailable,  // what would serve it is stopping, or has failed before: nothing new is taken
    failed,       // what served it has failed
  };
  Kind kind = Kind::invalid;
  std::string message;
  std::string param;  // the name of the offending field; empty: there is none
};

[[noreturn]] void check_failed(const char* file, int line, const char* condition, std::string_view detail);

}  // namespace chorale

// A programmer's fault: always on, also in release. The detail is an optional fmt format with arguments.
#define CHORALE_CHECK(condition, ...)                                                         \
  do {                                                                                        \
    if (!(condition)) [[unlikely]]                                                            \
      ::chorale::check_failed(__FILE__, __LINE__, #condition, ::fmt::format("" __VA_ARGS__)); \
  } while (false)
