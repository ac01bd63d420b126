#include "apps/settings.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include "unit/temporary_folder.h"

namespace chorale::apps {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr const char* kVariables[] = {"CHORALE_PORT",       "CHORALE_SIZE",   "CHORALE_TENSOR_SIZE",
                                      "CHORALE_NAMES",      "CHORALE_FAST",   "CHORALE_CACHE_OFF",
                                      "CHORALE_MODEL_PATH", "CHORALE_CONFIG", "CHORALE_KEY"};

// Commands with flags of each kind.
class SettingsTest : public ::testing::Test {
 protected:
  SettingsTest() {
    for (const char* name : kVariables) unsetenv(name);
  }
  ~SettingsTest() override {
    for (const char* name : kVariables) unsetenv(name);
  }

  struct Flags {
    std::string model_path, model, other;
    int port = 30000;
    std::optional<int> size;
    std::vector<std::string> names, keys, parts;
    bool fast = false, caches = true;
  };

  // What is wrong, or nothing.
  std::string parse(std::vector<std::string> arguments, const std::string& command = "serve") {
    flags = {};
    CLI::App root("", "chorale");
    CLI::App* serve = root.add_subcommand("serve");
    add_config_flag(*serve);
    add_flags(*serve);
    CLI::App* chat = root.add_subcommand("chat");
    add_config_flag(*chat);
    chat->add_option("--port", flags.port)->check(CLI::Range(0, 65535));
    arguments.insert(arguments.begin(), command);
    std::reverse(arguments.begin(), arguments.end());
    try {
      root.parse(arguments);
    } catch (const CLI::ParseError& error) {
      return error.what();
    }
    return "";
  }

  void add_flags(CLI::App& app) {
    app.add_option("DIR", flags.model);
    app.add_option("--model-path", flags.model_path);
    app.add_option("--port", flags.port)->check(CLI::Range(0, 65535));
    app.add_option("--size,--tensor-size", flags.size);
    app.add_option("--names", flags.names);
    app.add_option("--key", flags.keys)->allow_extra_args(false);
    app.add_option("--parts", flags.parts)->delimiter(',');
    app.add_flag("--fast", flags.fast);
    app.add_flag("--cache-off{false}", flags.caches);
    app.add_option("--other", flags.other)->required();
  }

  std::string parse_with(const std::string& file, std::vector<std::string> arguments = {}) {
    folder.write("a.yaml", file);
    arguments.insert(arguments.end(), {"--config", (folder / "a.yaml").string()});
    return parse(std::move(arguments));
  }

  TemporaryFolder folder;
  Flags flags;
};

TEST_F(SettingsTest, TheCommandLineComesBeforeTheEnvironmentBeforeTheFile) {
  const std::string file = "port: 1\nother: x\n";
  EXPECT_EQ(parse_with(file), "");
  EXPECT_EQ(flags.port, 1);
  EXPECT_EQ(flags.other, "x") << "also one that is required";
  setenv("CHORALE_PORT", "2", 1);
  EXPECT_EQ(parse_with(file), "");
  EXPECT_EQ(flags.port, 2);
  EXPECT_EQ(parse_with(file, {"--port", "3"}), "");
  EXPECT_EQ(flags.port, 3);
  EXPECT_EQ(parse({"--other", "x"}), "");
  EXPECT_EQ(flags.port, 2) << "the environment without a file";
  setenv("CHORALE_PORT", "", 1);
  EXPECT_EQ(parse({"--other", "x"}), "");
  EXPECT_EQ(flags.port, 30000) << "an empty variable is none";
}

TEST_F(SettingsTest, TheFileMayBeNamedByTheEnvironment) {
  folder.write("b.yaml", "port: 7\nother: x\n");
  setenv("CHORALE_CONFIG", (folder / "b.yaml").c_str(), 1);
  EXPECT_EQ(parse({}), "");
  EXPECT_EQ(flags.port, 7);
  EXPECT_EQ(parse_with("port: 8\nother: x\n"), "");
  EXPECT_EQ(flags.port, 8);
}

TEST_F(SettingsTest, FlagsAreBooleans) {
  for (const char* on : {"true", "True", "yes", "on", "1"}) {
    EXPECT_EQ(parse_with(std::string("other: x\nfast: ") + on + "\ncache-off: " + on + "\n"), "");
    EXPECT_TRUE(flags.fast) << on;
    EXPECT_FALSE(flags.caches) << on;
  }
  for (const char* off : {"false", "FALSE", "no", "off", "0"}) {
    EXPECT_EQ(parse_with(std::string("other: x\nfast: ") + off + "\ncache-off: " + off + "\n"), "");
    EXPECT_FALSE(flags.fast) << off;
    EXPECT_TRUE(flags.caches) << off;
  }
  setenv("CHORALE_FAST", "false", 1);
  EXPECT_EQ(parse_with("other: x\nfast: true\n"), "");
  EXPECT_FALSE(flags.fast) << "of the environment";
  EXPECT_EQ(parse_with("other: x\n", {"--fast"}), "");
  EXPECT_TRUE(flags.fast) << "of the command line";
  EXPECT_THAT(parse_with("other: x\ncache-off: maybe\n"),
              HasSubstr("line 2: --cache-off: expected true or false"));
  EXPECT_THAT(parse_with("other: x\ncache-off: [true, true]\n"),
              HasSubstr("line 2: --cache-off: expected true or false"));
}

TEST_F(SettingsTest, ListsAreForFlagsThatTakeSeveral) {
  EXPECT_EQ(parse_with("other: x\nnames: [a, b c]\nkey: [k1, k2]\nparts: 'p,q'\n"), "");
  EXPECT_THAT(flags.names, ElementsAre("a", "b c"));
  EXPECT_THAT(flags.keys, ElementsAre("k1", "k2"));
  EXPECT_THAT(flags.parts, ElementsAre("p", "q"));
  EXPECT_THAT(parse_with("other: x\nport: [1, 2]\n"), HasSubstr("a.yaml, line 2: "));
  setenv("CHORALE_NAMES", "c d", 1);
  setenv("CHORALE_KEY", "k 3", 1);
  EXPECT_EQ(parse({"--other", "x"}), "");
  EXPECT_THAT(flags.names, ElementsAre("c", "d"));
  EXPECT_THAT(flags.keys, ElementsAre("k 3"));
  EXPECT_EQ(parse_with("other: x\nnames: []\n", {}), "");
}

TEST_F(SettingsTest, OtherNamesOfAFlagAreTheSameFlag) {
  EXPECT_EQ(parse_with("other: x\ntensor-size: 4\n"), "");
  EXPECT_EQ(flags.size, 4);
  EXPECT_THAT(parse_with("other: x\nsize: 2\ntensor-size: 4\n"),
              HasSubstr("line 3: \"size\" and \"tensor-size\" are the same"));
  setenv("CHORALE_TENSOR_SIZE", "8", 1);
  EXPECT_EQ(parse_with("other: x\nsize: 2\n"), "");
  EXPECT_EQ(flags.size, 8);
}

TEST_F(SettingsTest, AModelThatStandsByItselfIsGiven) {
  EXPECT_EQ(parse_with("other: x\nmodel-path: a\n", {"b"}), "");
  EXPECT_EQ(flags.model, "b");
  EXPECT_EQ(flags.model_path, "");
  setenv("CHORALE_MODEL_PATH", "c", 1);
  EXPECT_EQ(parse({"--other", "x"}), "");
  EXPECT_EQ(flags.model_path, "c");
}

TEST_F(SettingsTest, ValuesAreCheckedAsOnTheCommandLine) {
  EXPECT_THAT(parse_with("other: x\n\nport: 70000\n"),
              HasSubstr("a.yaml, line 3: --port: Value 70000 not in range"));
  EXPECT_THAT(parse_with("port: web\nother: x\n"), HasSubstr("a.yaml, line 1: --port"));
  EXPECT_EQ(parse_with("port: 70000\nother: x\n", {"--port", "1"}), "") << "it is not used";
  setenv("CHORALE_PORT", "70000", 1);
  EXPECT_THAT(parse({"--other", "x"}),
              HasSubstr("the environment variable CHORALE_PORT: --port: Value 70000"));
}

TEST_F(SettingsTest, UnknownKeysAreRefused) {
  EXPECT_THAT(parse_with("other: x\nprot: 1\n"),
              HasSubstr("a.yaml, line 2: unknown key \"prot\"; did you mean port?"));
  EXPECT_THAT(parse_with("other: x\nzzzzzz: 1\n"), ::testing::EndsWith("unknown key \"zzzzzz\""));
  for (const char* key : {"config", "help", "--port", "DIR"})
    EXPECT_THAT(parse_with(std::string("other: x\n\"") + key + "\": y\n"), HasSubstr("unknown key")) << key;
}

TEST_F(SettingsTest, CommandsShareAFileWithTheServer) {
  folder.write("a.yaml", "port: 5\nother: x\nfast: true\n");
  EXPECT_EQ(parse({"--config", (folder / "a.yaml").string()}, "chat"), "");
  EXPECT_EQ(flags.port, 5);
  EXPECT_FALSE(flags.fast);
  folder.write("a.yaml", "prot: 5\n");
  EXPECT_THAT(parse({"--config", (folder / "a.yaml").string()}, "chat"), HasSubstr("did you mean port?"));
}

// In a cluster with a service of this name.
TEST_F(SettingsTest, AddressesThatKubernetesTellsAreNoSettings) {
  setenv("CHORALE_PORT", "tcp://10.96.0.1:30000", 1);
  EXPECT_EQ(parse({"--other", "x"}), "");
  EXPECT_EQ(flags.port, 30000);
}

}  // namespace
}  // namespace chorale::apps
