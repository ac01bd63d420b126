#include "server/http/authorization.h"

#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/constant_time.h"
#include "base/sha256.h"

namespace chorale::server {

std::string key_holder(const std::vector<std::string>& keys) {
  if (keys.empty()) return "";
  const std::set<std::string> distinct(keys.begin(), keys.end());
  return sha256_hex(fmt::format("{}", fmt::join(distinct, "\n")));
}

Authorization::Authorization(const std::vector<std::string>& keys) {
  for (const std::string& key : keys) digests_.push_back(sha256_hex(key));
}

std::optional<HttpRefusal> Authorization::check(const HttpRequest& request) const {
  if (digests_.empty() || is_open(request.path)) return std::nullopt;
  bool known = false;
  for (const std::string& key : request.keys) {
    const std::string digest = sha256_hex(key);
    for (const std::string& expected : digests_) {
      const bool equal = equal_in_constant_time(digest, expected);
      known = equal || known;
    }
  }
  if (known) return std::nullopt;
  const char* message = request.keys.empty()
                            ? "this server needs an API key: Authorization: Bearer KEY, or x-api-key: KEY"
                            : "the API key is not one of this server's";
  return HttpRefusal{.status = 401, .message = message, .headers = {{"WWW-Authenticate", "Bearer"}}};
}

bool Authorization::is_probe(std::string_view path) {
  return path == "/health" || path == "/ping" || path == "/metrics";
}

bool Authorization::is_open(std::string_view path) {
  return path == "/" || is_probe(path);
}

}  // namespace chorale::server
