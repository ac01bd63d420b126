// Who may use the server: whoever presents one of its keys. Without keys, everybody.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/http/exchange.h"

namespace chorale::server {

// What stands for the holder of the keys that a request presents: nobody who has others can be taken for it.
// In which headers they came, and how often, makes no difference. Empty: no keys.
std::string key_holder(const std::vector<std::string>& keys);

// Thread-safe. Keeps digests of the keys, not the keys.
class Authorization {
 public:
  // admin_keys, where there are some, are what administrators' doors want, and open all others, too.
  // is_admin_door: by the path as it was sent; thread-safe, does not throw.
  explicit Authorization(const std::vector<std::string>& keys,
                         const std::vector<std::string>& admin_keys = {},
                         std::function<bool(std::string_view path)> is_admin_door = nullptr);

  // The refusal, or nothing when the request may be read and answered. The time it takes tells neither a key
  // nor its length.
  std::optional<HttpRefusal> check(const HttpRequest& request) const;

  // What monitoring asks for: "/health", "/ping" and "/metrics". It is answered beyond limits, too.
  static bool is_probe(std::string_view path);

  // What is asked for without a key: probes, and "/" by browsers. Everything else is guarded, also what does
  // not exist.
  static bool is_open(std::string_view path);

 private:
  std::vector<std::string> digests_;
  std::vector<std::string> admin_digests_;
  std::function<bool(std::string_view)> is_admin_door_;
};

}  // namespace chorale::server
