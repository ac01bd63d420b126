#include "server/http/cors.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

namespace chorale::server {
namespace {

constexpr std::string_view kAll = "*";
constexpr int kPreflightSeconds = 600;  // for which a browser need not ask again

}  // namespace

CorsPolicy::CorsPolicy(std::vector<std::string> origins) : origins_(std::move(origins)) {
  allows_all_ = std::ranges::find(origins_, kAll) != origins_.end();
}

bool CorsPolicy::allows(std::string_view origin) const {
  if (origin.empty()) return false;
  return allows_all_ || std::ranges::find(origins_, origin) != origins_.end();
}

bool CorsPolicy::is_preflight(const HttpRequest& request) const {
  return request.method == "OPTIONS" && !request.cors.method.empty() && allows(request.cors.origin);
}

std::string CorsPolicy::header_lines(const HttpRequest& request) const {
  if (origins_.empty()) return "";
  // A cache must not give one origin what was answered to another.
  std::string lines = allows_all_ ? "" : "Vary: Origin\r\n";
  if (!allows(request.cors.origin)) return lines;
  lines += fmt::format("Access-Control-Allow-Origin: {}\r\n", allows_all_ ? kAll : request.cors.origin);
  if (!is_preflight(request))
    return lines + "Access-Control-Expose-Headers: X-Request-Id, Request-Id, Retry-After\r\n";
  lines += "Access-Control-Allow-Methods: GET, HEAD, POST, DELETE, OPTIONS\r\n";
  // Named one by one: "*" would not stand for Authorization.
  if (!request.cors.headers.empty())
    lines += fmt::format("Access-Control-Allow-Headers: {}\r\n", request.cors.headers);
  if (request.cors.private_network) lines += "Access-Control-Allow-Private-Network: true\r\n";
  return lines + fmt::format("Access-Control-Max-Age: {}\r\n", kPreflightSeconds);
}

bool is_cors_origin(std::string_view text) {
  if (text == kAll || text == "null") return true;
  const size_t scheme = text.find("://");
  if (scheme == 0 || scheme == std::string_view::npos) return false;
  const std::string_view host = text.substr(scheme + 3);
  return !host.empty() && std::ranges::all_of(text, [](char c) { return c > ' ' && c < '\x7f'; }) &&
         host.find_first_of("/?#@,") == std::string_view::npos;
}

}  // namespace chorale::server
