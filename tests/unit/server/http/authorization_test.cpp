#include "server/http/authorization.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace chorale::server {
namespace {

int status_for(const Authorization& authorization, const std::string& path, std::vector<std::string> keys) {
  HttpRequest request;
  request.method = "POST";
  request.path = path;
  request.keys = std::move(keys);
  const auto refusal = authorization.check(request);
  if (!refusal) return 200;
  EXPECT_EQ(refusal->headers.at(0).first, "WWW-Authenticate");
  EXPECT_EQ(refusal->headers.at(0).second, "Bearer");
  for (const std::string& key : request.keys) EXPECT_EQ(refusal->message.find(key), std::string::npos);
  return refusal->status;
}

TEST(Authorization, LetsInWhoHasOneOfTheKeys) {
  const Authorization authorization({"sesame-1", "sesame-2"});
  EXPECT_EQ(status_for(authorization, "/v1/models", {"sesame-1"}), 200);
  EXPECT_EQ(status_for(authorization, "/v1/models", {"sesame-2"}), 200);
  EXPECT_EQ(status_for(authorization, "/v1/models", {"wrong-key", "sesame-2"}), 200);
  for (const char* key : {"sesame-", "sesame-3", "sesame-11", "Sesame-1", "sesame-1 "}) {
    EXPECT_EQ(status_for(authorization, "/v1/models", {key}), 401) << key;
  }
  EXPECT_EQ(status_for(authorization, "/v1/models", {}), 401);
}

TEST(Authorization, GuardsAllButWhatMonitoringNeeds) {
  const Authorization authorization({"sesame"});
  for (const char* path : {"/", "/health", "/ping", "/metrics"})
    EXPECT_EQ(status_for(authorization, path, {}), 200);
  for (const char* path : {"/v1/models", "/generate", "/health/", "/ping/", "/version", "/health_generate",
                           "/%68ealth", "//health", "/Health", "/metrics/x", "/none", "*", ""}) {
    EXPECT_EQ(status_for(authorization, path, {}), 401) << path;
  }
}

TEST(Authorization, HoldersAreToldApartByTheirKeysNotByHowTheySendThem) {
  EXPECT_EQ(key_holder({}), "");
  EXPECT_EQ(key_holder({"a", "a"}), key_holder({"a"}));
  EXPECT_EQ(key_holder({"b", "a"}), key_holder({"a", "b"}));
  for (const std::vector<std::string>& other :
       {std::vector<std::string>{"b"}, {"a", "b"}, {"ab"}, {""}, {}}) {
    EXPECT_NE(key_holder(other), key_holder({"a"}));
  }
}

TEST(Authorization, WithoutKeysLetsEverybodyIn) {
  EXPECT_EQ(status_for(Authorization({}), "/generate", {}), 200);
  EXPECT_EQ(status_for(Authorization({}), "/generate", {"any"}), 200);
}

}  // namespace
}  // namespace chorale::server
