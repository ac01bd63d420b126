#include "server/endpoints/page.h"

#include <string>
#include <string_view>

// See cmake/ChoraleEmbed.cmake.
extern "C" {
extern const char chorale_embedded_page[], chorale_embedded_page_end[];
extern const char chorale_embedded_page_policy[], chorale_embedded_page_policy_end[];
}

namespace chorale::server {

HttpResponse page(ServerState& /*state*/, const HttpRequest& /*request*/) {
  std::string_view policy(chorale_embedded_page_policy, chorale_embedded_page_policy_end);
  while (policy.ends_with('\n')) policy.remove_suffix(1);
  return {.body = std::string(chorale_embedded_page, chorale_embedded_page_end),
          .content_type = "text/html; charset=utf-8",
          .headers = {{"Content-Security-Policy", std::string(policy)},
                      {"Cache-Control", "no-cache"},
                      {"Referrer-Policy", "no-referrer"}}};
}

}  // namespace chorale::server
