// The table of endpoints against its description: what is missing in either fails.
#include "server/routes.h"

#include <fstream>
#include <set>
#include <string>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "source_dir.h"

namespace chorale::server {
namespace {

std::set<std::string> described() {
  std::ifstream file(source_dir() / "src/server/endpoints/openapi.json");
  const Json description = Json::parse(file);
  std::set<std::string> out;
  for (const auto& [path, methods] : description.at("paths").items()) {
    for (const auto& [method, operation] : methods.items()) out.insert(fmt::format("{} {}", method, path));
  }
  return out;
}

TEST(Routes, AreThoseThatTheDescriptionHas) {
  std::set<std::string> served;
  for (const Route& route : routes()) {
    if (route.takes_get()) served.insert(fmt::format("get {}", route.path));
    if (route.takes_post()) served.insert(fmt::format("post {}", route.path));
    if (route.takes_delete()) served.insert(fmt::format("delete {}", route.path));
  }
  EXPECT_THAT(served, ::testing::ContainerEq(described()));
}

TEST(Routes, EachIsFoundByItsPathAndNoOtherIs) {
  for (const Route& route : routes()) EXPECT_EQ(find_route(route.path), &route) << route.path;
  EXPECT_EQ(find_route("/v1/models/tales"), find_route("/v1/models/{name}"));
  EXPECT_EQ(find_route("/v1/models/"), find_route("/v1/models/{name}"));
  EXPECT_EQ(find_route("/v1/responses/resp_1"), find_route("/v1/responses/{name}"));
  EXPECT_EQ(find_route("/v1/responses/resp_1/cancel"), find_route("/v1/responses/{name}/cancel"));
  EXPECT_EQ(find_route("/v1/responses/resp_1/input_items"), find_route("/v1/responses/{name}/input_items"));
  for (const char* path : {"", "/v1", "/v1/", "/v1/model", "/health/", "/generate/x", "//"}) {
    EXPECT_EQ(find_route(path), nullptr) << path;
  }
}

// As they are sent, also with a slash at the end, as the table of endpoints takes them.
TEST(Routes, AdministratorsDoorsAreThoseThatChangeTheServer) {
  std::set<std::string> doors;
  for (const Route& route : routes()) {
    if (!is_admin_door(route.path)) continue;
    doors.insert(std::string(route.path));
    EXPECT_TRUE(is_admin_door(fmt::format("{}/", route.path)));
    EXPECT_FALSE(is_admin_door(fmt::format("{}//", route.path)));
  }
  EXPECT_THAT(doors, ::testing::UnorderedElementsAre("/flush_cache", "/rebalance_experts", "/switch_strategy",
                                                     "/start_expert_distribution_record",
                                                     "/stop_expert_distribution_record",
                                                     "/dump_expert_distribution_record"));
  for (const char* path : {"", "/", "//", "/generate", "/expert_placement", "/switch_strategy/x", "/none"})
    EXPECT_FALSE(is_admin_door(path)) << path;
}

TEST(Routes, ASlashAtTheEndIsLeftOutWhereThereIsNoSuchPath) {
  EXPECT_EQ(served_path("/health/"), "/health");
  EXPECT_EQ(served_path("/v1/models/"), "/v1/models/");
  EXPECT_EQ(served_path("//"), "/");
  for (const char* path : {"", "/", "/health", "/health//", "/none/"}) EXPECT_EQ(served_path(path), path);
}

}  // namespace
}  // namespace chorale::server
