// Logging to standard error through spdlog: one line per event, as text or as a JSON object. Control
// characters in the text are escaped, so that nothing a client or a file supplies can forge a line or drive a
// terminal. Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include <fmt/format.h>

#include "base/line_writer.h"

namespace chorale::log {

enum class Level { debug, info, warn, error, critical, off };

//   text  2026-01-31 12:00:00.123 info the message name=value name="a value"
//   json  {"time":"2026-01-31T11:00:00.123Z","level":"info","message":"the message","name":"value"}
enum class Format { text, json };

// What a message says for programs. The views are read before write() returns.
struct Field {
  std::string_view name;  // an identifier
  std::variant<int64_t, double, std::string_view> value;
};

// Accepts "debug", "info", "warn", "error", "critical", "off"; throws Error for anything else.
Level parse_level(std::string_view name);
void set_level(Level level);
bool is_enabled(Level level);
// Before other threads log.
void set_format(Format format);
Format format();
// Writes what was logged so far, as far as that does not take longer than a quarter of a second.
void flush();

// While it lives, lines are written by a thread of its own: nobody who logs waits for whoever reads the log.
// Of a reader that is too slow, lines are dropped beyond 1 MiB, and the log tells how many. One at a time.
class Background {
 public:
  Background();
  ~Background();
  Background(const Background&) = delete;
  Background& operator=(const Background&) = delete;

 private:
  LineWriter writer_;
};

// The text with control characters (C0, DEL, and the C1 range in UTF-8) written as \n, \t, \xNN.
std::string escape(std::string_view text);

// The text as a JSON string, quotes included. What is not UTF-8 becomes U+FFFD.
std::string json_string(std::string_view text);

void write(Level level, std::string_view message, std::span<const Field> fields = {});

template <typename... Args>
void debug(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::debug, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void info(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::info, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void warn(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::warn, fmt::format(format, std::forward<Args>(args)...));
}
// The same, but only the first time for a key; after kMaxKeys keys of the process nothing more is written,
// so that clients cannot fill the log.
inline constexpr size_t kMaxKeys = 256;
bool is_first(std::string_view key);
template <typename... Args>
void warn_once(std::string_view key, fmt::format_string<Args...> format, Args&&... args) {
  if (is_first(key)) write(Level::warn, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void error(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::error, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void critical(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::critical, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace chorale::log
