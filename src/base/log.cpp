#include "base/log.h"

#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <functional>
#include <memory>
#include <mutex>
#include <set>

#include <fmt/chrono.h>
#include <spdlog/details/os.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include "base/error.h"

namespace chorale::log {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD
constexpr const char* kTextPattern = "%Y-%m-%d %H:%M:%S.%e %^%l%$ %v";
Format chosen_format = Format::text;

spdlog::level::level_enum to_spdlog(Level level) {
  switch (level) {
    case Level::debug:
      return spdlog::level::debug;
    case Level::info:
      return spdlog::level::info;
    case Level::warn:
      return spdlog::level::warn;
    case Level::error:
      return spdlog::level::err;
    case Level::critical:
      return spdlog::level::critical;
    case Level::off:
      return spdlog::level::off;
  }
  return spdlog::level::info;
}

const char* name_of(Level level) {
  switch (level) {
    case Level::debug:
      return "debug";
    case Level::info:
      return "info";
    case Level::warn:
      return "warn";
    case Level::error:
      return "error";
    case Level::critical:
      return "critical";
    case Level::off:
      break;
  }
  return "off";
}

// The bytes of the UTF-8 character that begins the text, or 0 when it is none.
size_t utf8_length(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  const size_t length = first < 0x80 ? 1 : first < 0xC2 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  if (length == 0 || first > 0xF4 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i)
    if ((byte(i) & 0xC0U) != 0x80U) return 0;
  const bool overlong = (first == 0xE0 && byte(1) < 0xA0) || (first == 0xF0 && byte(1) < 0x90);
  const bool outside = (first == 0xED && byte(1) >= 0xA0) || (first == 0xF4 && byte(1) >= 0x90);
  return overlong || outside ? 0 : length;
}

std::string text_value(const Field& field) {
  if (const auto* integer = std::get_if<int64_t>(&field.value)) return fmt::format("{}", *integer);
  if (const auto* real = std::get_if<double>(&field.value)) return fmt::format("{:.6g}", *real);
  const std::string escaped = escape(std::get<std::string_view>(field.value));
  const bool is_word = !escaped.empty() && escaped.find_first_of(" \"=") == std::string::npos;
  return is_word ? escaped : fmt::format("\"{}\"", escaped);
}

std::string json_value(const Field& field) {
  if (const auto* integer = std::get_if<int64_t>(&field.value)) return fmt::format("{}", *integer);
  if (const auto* real = std::get_if<double>(&field.value))
    return std::isfinite(*real) ? fmt::format("{:.9g}", *real) : "null";
  return json_string(std::get<std::string_view>(field.value));
}

std::string json_line(Level level, std::string_view message, std::span<const Field> fields) {
  const auto now = std::chrono::floor<std::chrono::milliseconds>(std::chrono::system_clock::now());
  const auto seconds = std::chrono::floor<std::chrono::seconds>(now);
  std::string line = fmt::format(R"({{"time":"{:%Y-%m-%dT%H:%M:%S}.{:03d}Z","level":"{}","message":{})",
                                 fmt::gmtime(std::chrono::system_clock::to_time_t(seconds)),
                                 (now - seconds).count(), name_of(level), json_string(message));
  for (const Field& field : fields) line += fmt::format(",{}:{}", json_string(field.name), json_value(field));
  return line + '}';
}

constexpr size_t kMaxWaitingBytes = size_t{1} << 20;
constexpr std::chrono::milliseconds kFlushLimit{250};

// Standard error, written at once or handed to a writer.
class Sink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  void set_writer(LineWriter* writer) {
    const std::lock_guard lock(mutex_);
    writer_ = writer;
  }
  // For lines of the log itself.
  std::string formatted(Level level, std::string_view message) {
    return formatted(spdlog::details::log_msg("chorale", to_spdlog(level), message));
  }

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    const std::string line = formatted(message);
    if (writer_ != nullptr) {
      writer_->push(line);
    } else {
      std::fwrite(line.data(), 1, line.size(), stderr);
    }
  }
  void flush_() override {
    if (writer_ != nullptr) {
      writer_->flush(kFlushLimit);
    } else {
      std::fflush(stderr);
    }
  }
  std::string formatted(const spdlog::details::log_msg& message) {
    spdlog::memory_buf_t buffer;
    formatter_->format(message, buffer);
    std::string line(buffer.data(), buffer.size());
    if (has_colors_ && message.color_range_end > message.color_range_start) {
      line.insert(message.color_range_end, "\033[m");
      line.insert(message.color_range_start, color_of(message.level));
    }
    return line;
  }
  static const char* color_of(spdlog::level::level_enum level) {
    if (level >= spdlog::level::err) return "\033[31m\033[1m";
    if (level == spdlog::level::warn) return "\033[33m\033[1m";
    return level == spdlog::level::info ? "\033[32m" : "\033[36m";
  }

  const bool has_colors_ =
      spdlog::details::os::in_terminal(stderr) && spdlog::details::os::is_color_terminal();
  LineWriter* writer_ = nullptr;
};

Sink& sink() {
  static const auto instance = std::make_shared<Sink>();
  return *instance;
}

// The one logger of the process: standard output stays free for results.
spdlog::logger& logger() {
  static const std::shared_ptr<spdlog::logger> instance = [] {
    auto created =
        std::make_shared<spdlog::logger>("chorale", std::shared_ptr<Sink>(std::shared_ptr<void>(), &sink()));
    created->set_pattern(kTextPattern);
    return created;
  }();
  return *instance;
}

// The line in the place of those that were dropped, in the log's own format.
std::string dropped_line(uint64_t count) {
  const std::string message =
      fmt::format("{} lines of the log were dropped here: its reader was too slow", count);
  const Field field{"lines", static_cast<int64_t>(count)};
  return sink().formatted(
      Level::warn, chosen_format == Format::json ? json_line(Level::warn, message, {&field, 1}) : message);
}

}  // namespace

Level parse_level(std::string_view name) {
  if (name == "debug") return Level::debug;
  if (name == "info") return Level::info;
  if (name == "warn" || name == "warning") return Level::warn;
  if (name == "error") return Level::error;
  if (name == "critical") return Level::critical;
  if (name == "off") return Level::off;
  throw_error("--log-level: expected debug, info, warn, error, critical or off, found \"{}\"", name);
}

void set_level(Level level) {
  logger().set_level(to_spdlog(level));
}

bool is_enabled(Level level) {
  return logger().should_log(to_spdlog(level));
}

void set_format(Format format) {
  chosen_format = format;
  logger().set_pattern(format == Format::json ? "%v" : kTextPattern);
}

Format format() {
  return chosen_format;
}

void flush() {
  logger().flush();
}

Background::Background() : writer_(STDERR_FILENO, kMaxWaitingBytes, dropped_line) {
  logger();
  sink().set_writer(&writer_);
}

Background::~Background() {
  sink().set_writer(nullptr);
}

std::string escape(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    const bool c1 = c == 0xC2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xA0;
    if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (c < 0x20 || c == 0x7F) {
      out += fmt::format("\\x{:02x}", c);
    } else if (c1) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[++i]));
    } else {
      out += static_cast<char>(c);
    }
  }
  return out;
}

bool is_first(std::string_view key) {
  static std::mutex mutex;
  static std::set<std::string, std::less<>> keys;
  const std::lock_guard lock(mutex);
  return keys.size() < kMaxKeys && keys.emplace(key).second;
}

std::string json_string(std::string_view text) {
  std::string out = "\"";
  while (!text.empty()) {
    const size_t length = utf8_length(text);
    const auto c = static_cast<unsigned char>(text[0]);
    const bool c1 = length == 2 && c == 0xC2 && static_cast<unsigned char>(text[1]) < 0xA0;
    if (length == 0) {
      out += kReplacement;
    } else if (c == '"' || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c < 0x20 || c == 0x7F) {
      out += fmt::format("\\u{:04x}", c);
    } else if (c1) {
      out += fmt::format("\\u{:04x}", static_cast<unsigned char>(text[1]));
    } else {
      out += text.substr(0, length);
    }
    text.remove_prefix(length == 0 ? 1 : length);
  }
  return out + '"';
}

void write(Level level, std::string_view message, std::span<const Field> fields) {
  if (!is_enabled(level)) return;
  if (chosen_format == Format::json) {
    return logger().log(to_spdlog(level), "{}", json_line(level, message, fields));
  }
  std::string line = escape(message);
  for (const Field& field : fields) line += fmt::format(" {}={}", field.name, text_value(field));
  logger().log(to_spdlog(level), "{}", line);
}

}  // namespace chorale::log
