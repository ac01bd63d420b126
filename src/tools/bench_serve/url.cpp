#include "tools/bench_serve/url.h"

#include <algorithm>
#include <charconv>
#include <cstdint>

#include <fmt/format.h>

#include "base/error.h"
#include "base/log.h"

namespace chorale::bench_serve {
namespace {

constexpr uint32_t kLastPort = 65535;

bool is_port(std::string_view text) {
  uint32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && value >= 1 && value <= kLastPort;
}

// What may stand in a request's line and its header Host.
bool is_plain(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c > 0x20 && c < 0x7f; });
}

// Takes "host" or "[address]" off the front; empty when there is none.
std::string take_host(std::string_view& rest) {
  if (!rest.starts_with('[')) {
    const std::string host(rest.substr(0, rest.find(':')));
    rest.remove_prefix(host.size());
    return host;
  }
  const size_t end = rest.find(']');
  if (end == std::string_view::npos) return "";
  const std::string host(rest.substr(1, end - 1));
  rest.remove_prefix(end + 1);
  return host;
}

}  // namespace

std::string Url::authority() const {
  const bool is_ipv6 = host.find(':') != std::string::npos;
  return is_ipv6 ? fmt::format("[{}]:{}", host, port) : fmt::format("{}:{}", host, port);
}

std::string Url::text() const {
  return authority() + prefix;
}

Url parse_url(std::string_view text, std::string_view flag) {
  const auto fail = [&](std::string_view why) {
    throw_error("{}: expected a URL like http://127.0.0.1:30000, found \"{}\"{}", flag, log::escape(text),
                why);
  };
  std::string_view rest = text;
  if (const size_t scheme = rest.find("://"); scheme != std::string_view::npos) {
    if (rest.substr(0, scheme) != "http") fail("; only http is spoken");
    rest.remove_prefix(scheme + 3);
  }
  const size_t slash = std::min(rest.find('/'), rest.size());
  std::string_view place = rest.substr(0, slash);
  std::string_view prefix = rest.substr(slash);
  while (prefix.ends_with('/')) prefix.remove_suffix(1);
  if (prefix.ends_with("/v1")) prefix.remove_suffix(3);

  Url url{.host = take_host(place), .port = "80", .prefix = std::string(prefix)};
  if (place.starts_with(':')) {
    url.port = place.substr(1);
    place = {};
  }
  if (url.host.empty() || !place.empty() || !is_port(url.port)) fail("");
  if (!is_plain(text) || prefix.find_first_of("?#") != std::string_view::npos) fail("");
  return url;
}

}  // namespace chorale::bench_serve
