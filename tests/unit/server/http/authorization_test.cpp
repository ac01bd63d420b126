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

TEST(Authorization, AdministratorsDoorsWantAnAdministratorsKeyWhereThereIsOne) {
  const auto is_door = [](std::string_view path) { return path == "/door"; };
  const auto status = [&](const std::vector<std::string>& keys, const std::vector<std::string>& admin_keys,
                          const std::string& path, const std::string& key) {
    HttpRequest request;
    request.path = path;
    if (!key.empty()) request.keys = {key};
    const auto refusal = Authorization(keys, admin_keys, is_door).check(request);
    return refusal ? refusal->status : 200;
  };
  const std::vector<std::string> none, client = {"client"}, admin = {"admin"};
  EXPECT_EQ(status(client, admin, "/door", ""), 401);
  EXPECT_EQ(status(client, admin, "/door", "other"), 401);
  EXPECT_EQ(status(client, admin, "/door", "client"), 403);
  EXPECT_EQ(status(client, admin, "/door", "admin"), 200);
  EXPECT_EQ(status(client, admin, "/generate", ""), 401);
  EXPECT_EQ(status(client, admin, "/generate", "client"), 200);
  EXPECT_EQ(status(client, admin, "/generate", "admin"), 200) << "it opens all doors";
  EXPECT_EQ(status(none, admin, "/door", ""), 401);
  EXPECT_EQ(status(none, admin, "/door", "client"), 401);
  EXPECT_EQ(status(none, admin, "/door", "admin"), 200);
  EXPECT_EQ(status(none, admin, "/generate", ""), 200) << "clients need no key";
  EXPECT_EQ(status(client, none, "/door", "client"), 200) << "there is no other key";
  EXPECT_EQ(status(client, none, "/door", ""), 401);
  EXPECT_EQ(status(none, none, "/door", ""), 200);
}

TEST(Authorization, WithoutKeysLetsEverybodyIn) {
  EXPECT_EQ(status_for(Authorization({}), "/generate", {}), 200);
  EXPECT_EQ(status_for(Authorization({}), "/generate", {"any"}), 200);
}

}  // namespace
}  // namespace chorale::server
