#include "io/hub_cache.h"

#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include "io/model_folder.h"
#include "unit/io/test_files.h"

namespace chorale::io {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;

constexpr const char* kVariables[] = {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME",
                                      "HOME"};
constexpr const char* kName = "Qwen/Qwen3-30B-A3B";
constexpr const char* kOld = "1234abcd00000000000000000000000000000000";
constexpr const char* kNew = "1234ffff00000000000000000000000000000000";

// The variables that tell where the cache is: none but those that a test sets. Afterwards they are as before.
class HubCache : public ::testing::Test {
 protected:
  HubCache() {
    for (const char* name : kVariables) {
      const char* value = getenv(name);
      before_.emplace_back(name, value == nullptr ? std::nullopt : std::optional<std::string>(value));
      unsetenv(name);
    }
    setenv("HF_HUB_CACHE", folder_.path().c_str(), 1);
  }
  ~HubCache() override {
    for (const auto& [name, value] : before_) {
      if (value) {
        setenv(name, value->c_str(), 1);
      } else {
        unsetenv(name);
      }
    }
  }

  void add_snapshot(const std::string& commit, bool whole = true) const {
    fs::create_directories(model_ / "snapshots" / commit);
    if (whole) std::ofstream(model_ / "snapshots" / commit / "config.json") << "{}";
  }
  void set_ref(const std::string& name, const std::string& commit) const {
    fs::create_directories((model_ / "refs" / name).parent_path());
    std::ofstream(model_ / "refs" / name) << commit;
  }
  fs::path snapshot(const char* commit) const { return model_ / "snapshots" / commit; }

  TemporaryFolder folder_;
  const fs::path model_ = folder_ / "models--Qwen--Qwen3-30B-A3B";
  std::vector<std::pair<const char*, std::optional<std::string>>> before_;
};

TEST(HubNames, LeadNowhereElse) {
  for (const char* name : {"Qwen/Qwen3-30B-A3B", "a/b", "a_b/c.d", "0/1"})
    EXPECT_TRUE(is_hub_name(name)) << name;
  const std::string longest = "org/" + std::string(92, 'n');
  EXPECT_TRUE(is_hub_name(longest));
  for (const std::string& name :
       {longest + "n",        std::string(),        std::string("a"),        std::string("/"),
        std::string("a/"),    std::string("/b"),    std::string("a/b/c"),    std::string("../b"),
        std::string("a/.."),  std::string("./b"),   std::string("a/.b"),     std::string("a/b."),
        std::string("-a/b"),  std::string("a/b-"),  std::string("a/b--c"),   std::string("a/b..c"),
        std::string("a/b c"), std::string("a/b\n"), std::string("a/\0b", 4), std::string("~/b"),
        std::string("a/b;c")})
    EXPECT_FALSE(is_hub_name(name)) << name;
}

TEST_F(HubCache, IsWhereTheHubsOwnLibraryHasIt) {
  unsetenv("HF_HUB_CACHE");
  setenv("HOME", "/home/ada", 1);
  EXPECT_EQ(hub_cache(), "/home/ada/.cache/huggingface/hub");
  setenv("XDG_CACHE_HOME", "/cache", 1);
  EXPECT_EQ(hub_cache(), "/cache/huggingface/hub");
  setenv("HF_HOME", "~/hf", 1);
  EXPECT_EQ(hub_cache(), "/home/ada/hf/hub");
  setenv("HUGGINGFACE_HUB_CACHE", "/old", 1);
  EXPECT_EQ(hub_cache(), "/old");
  setenv("HF_HUB_CACHE", "", 1);
  EXPECT_EQ(hub_cache(), "/old") << "an empty variable is none";
  setenv("HF_HUB_CACHE", "/new", 1);
  EXPECT_EQ(hub_cache(), "/new");
}

TEST_F(HubCache, HasAModelByItsName) {
  add_snapshot(kOld);
  add_snapshot(kNew);
  set_ref("main", std::string(kNew) + "\n");
  EXPECT_EQ(checkpoint_folder(kName), snapshot(kNew));
  EXPECT_EQ(model_name(checkpoint_folder(kName)), kName);
}

TEST_F(HubCache, HasRevisions) {
  add_snapshot(kOld);
  add_snapshot(kNew);
  set_ref("main", kNew);
  set_ref("v1", kOld);
  set_ref("refs/pr/3", kOld);
  for (const char* revision : {"v1", "refs/pr/3", kOld, "1234a", "1234abcd"}) {
    EXPECT_EQ(checkpoint_folder(kName, revision), snapshot(kOld)) << revision;
    EXPECT_EQ(checkpoint_folder(model_, revision), snapshot(kOld)) << revision;
  }
  EXPECT_EQ(checkpoint_folder(kName, "main"), snapshot(kNew));
  EXPECT_THAT(error_of([&] { checkpoint_folder(kName, "1234"); }),
              AllOf(HasSubstr("several snapshots that begin with 1234"), HasSubstr(kOld), HasSubstr(kNew)));
}

TEST_F(HubCache, TellsWhatDownloadsWhatIsNotThere) {
  const auto error = [&](const char* revision) {
    return error_of([&] { checkpoint_folder(kName, revision); });
  };
  EXPECT_THAT(error(""),
              AllOf(HasSubstr(folder_.path().string()), EndsWith(": hf download Qwen/Qwen3-30B-A3B")));
  EXPECT_THAT(error("v2"), EndsWith(": hf download Qwen/Qwen3-30B-A3B --revision v2"));
  fs::create_directories(model_ / "refs");
  EXPECT_THAT(error(""), EndsWith(": hf download Qwen/Qwen3-30B-A3B"));
  add_snapshot(kOld);
  for (const char* revision : {"v2", "abcd", "123"})
    EXPECT_THAT(error(revision), EndsWith(std::string(" --revision ") + revision));
  add_snapshot(kNew, false);
  set_ref("v3", kNew);
  EXPECT_THAT(error("v3"), AllOf(HasSubstr("not complete"), EndsWith(" --revision v3")));
  set_ref("main", "../../..");  // is no commit
  EXPECT_THAT(error(""), HasSubstr("several snapshots"));
}

TEST_F(HubCache, RefusesWhatIsNoRevision) {
  add_snapshot(kOld);
  for (const std::string& revision :
       {std::string("../x"), std::string("a/../b"), std::string("/etc/passwd"), std::string("a//b"),
        std::string("a/"), std::string("."), std::string("-x"), std::string("a b"), std::string("a;b"),
        std::string(201, 'a')})
    EXPECT_THAT(error_of([&] { checkpoint_folder(kName, revision); }),
                HasSubstr("--revision: expected a branch"))
        << revision;
  EXPECT_THAT(error_of([&] { checkpoint_folder(folder_.path(), "main"); }), HasSubstr("is a folder"));
  EXPECT_THAT(error_of([&] { checkpoint_folder("/no/such/model", "main"); }), HasSubstr("neither"));
}

TEST_F(HubCache, AFolderOfThatNameWins) {
  add_snapshot(kOld);
  const fs::path before = fs::current_path();
  fs::create_directories(folder_ / "work/Qwen/Qwen3-30B-A3B");
  fs::current_path(folder_ / "work");
  EXPECT_EQ(checkpoint_folder(kName), kName);
  fs::current_path(before);
  EXPECT_EQ(checkpoint_folder(kName), snapshot(kOld));
}

}  // namespace
}  // namespace chorale::io
