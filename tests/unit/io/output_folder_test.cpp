#include "io/output_folder.h"

#include <csignal>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/interruption.h"
#include "io/pending_file.h"
#include "test_files.h"

namespace chorale::io {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::ElementsAre;
using testing::EndsWith;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::MatchesRegex;
using testing::SizeIs;
using testing::StartsWith;
using testing::UnorderedElementsAre;

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  return names;
}

void make_folder(const fs::path& folder, std::string_view file, std::string_view contents) {
  fs::create_directory(folder);
  write_text_file(folder / file, contents);
}

std::string refusal(const fs::path& target, bool force = false, const fs::path& source = {}) {
  const std::string message = error_of([&] { OutputFolder folder(target, force, source); });
  EXPECT_THAT(message, StartsWith("--output " + target.string() + ": "));
  return message;
}

TEST(OutputFolder, AppearsWhenItIsCommitted) {
  const TemporaryFolder parent;
  for (const std::string target : {"out", "slash/", "dot/."}) {
    OutputFolder folder(parent / target, false);
    EXPECT_EQ(folder.path().parent_path(), parent.path());
    EXPECT_THAT(folder.path().filename().string(), MatchesRegex("\\.[a-z]+\\.[0-9a-f]+\\.tmp"));
    write_text_file(folder.path() / "config.json", "{}");
    fs::create_directory(folder.path() / "inner");
    write_text_file(folder.path() / "inner" / "file", "inner");
    EXPECT_FALSE(fs::exists(parent / target));
    folder.commit();
    EXPECT_THAT(names_in(parent / target), UnorderedElementsAre("config.json", "inner"));
    EXPECT_EQ(read_all(parent / target / "inner" / "file"), "inner");
  }
  EXPECT_THAT(parent.names(), UnorderedElementsAre("out", "slash", "dot"));
}

TEST(OutputFolder, MayBeRelative) {
  const TemporaryFolder parent;
  const fs::path before = fs::current_path();
  fs::current_path(parent.path());
  {
    OutputFolder folder("out", false);
    folder.commit();
  }
  fs::current_path(before);
  EXPECT_THAT(parent.names(), ElementsAre("out"));
}

TEST(OutputFolder, IsRemovedWithAllThatIsInItWhenItIsNot) {
  const TemporaryFolder parent;
  make_folder(parent / "linked", "precious", "kept");
  try {
    OutputFolder folder(parent / "out", false);
    make_folder(folder.path() / "inner", "file", "x");
    fs::create_directory_symlink(parent / "linked", folder.path() / "link");
    throw Interrupted();
  } catch (const Interrupted&) {
  }
  EXPECT_THAT(parent.names(), ElementsAre("linked"));
  EXPECT_THAT(names_in(parent / "linked"), ElementsAre("precious"));
}

TEST(OutputFolder, RefusesWhatExists) {
  const TemporaryFolder parent;
  make_folder(parent / "model", "config.json", "{}");
  make_folder(parent / "home", "letter", "precious");
  fs::create_directory(parent / "home" / "config.json");  // not a file
  fs::create_directory(parent / "empty");
  parent.write("file", "x");
  fs::create_directory_symlink(parent / "model", parent / "link");
  fs::create_symlink(parent / "nothing", parent / "dangling");

  EXPECT_THAT(refusal(parent / "model"), EndsWith("model: exists already; --force replaces it"));
  EXPECT_THAT(refusal(parent / "empty"), EndsWith(": exists already; --force replaces it"));
  EXPECT_THAT(refusal(parent / "home" / ""), EndsWith(": exists already; --force replaces it"));
  EXPECT_THAT(refusal(parent / "home", true), HasSubstr("found a folder without config.json"));
  for (const bool force : {false, true}) {
    EXPECT_THAT(refusal(parent / "file", force), EndsWith("file: expected a folder, found a file"));
    EXPECT_THAT(refusal(parent / "link", force), HasSubstr("found a symbolic link"));
    EXPECT_THAT(refusal(parent / "dangling", force), HasSubstr("found a symbolic link"));
  }
  EXPECT_THAT(parent.names(), UnorderedElementsAre("model", "home", "empty", "file", "link", "dangling"));
}

TEST(OutputFolder, RefusesPlacesThatCannotBeWritten) {
  const TemporaryFolder parent;
  parent.write("file", "x");
  EXPECT_THAT(refusal(parent / "absent" / "out"),
              AllOf(HasSubstr((parent / "absent").string()), EndsWith("does not exist")));
  EXPECT_THAT(refusal(parent / "file" / "out"), HasSubstr("file"));
  EXPECT_THAT(refusal("/proc/chorale-out"), HasSubstr("the folder /proc cannot be written: "));
  EXPECT_THAT(refusal("/", true), HasSubstr("below the root"));
  EXPECT_THAT(refusal(""), HasSubstr("empty path"));
  EXPECT_THAT(parent.names(), ElementsAre("file"));
}

TEST(OutputFolder, NeverReplacesTheSource) {
  const TemporaryFolder parent;
  make_folder(parent / "model", "config.json", "{}");
  make_folder(parent / "model" / "inner", "config.json", "{}");
  fs::create_directory_symlink(parent / "model", parent / "link");
  for (const bool force : {false, true}) {
    for (const char* source : {"model", "model/inner", "link", "link/inner", "model/inner/.."}) {
      EXPECT_THAT(refusal(parent / "model", force, parent / source), HasSubstr("which would be lost"))
          << source;
    }
  }
  OutputFolder beside(parent / "out", false, parent / "model");
  OutputFolder within(parent / "model" / "out", false, parent / "model");
}

TEST(OutputFolder, ReplacesACheckpointOrAnEmptyFolderByForce) {
  const TemporaryFolder parent;
  make_folder(parent / "out", "config.json", "old");
  make_folder(parent / "out" / "inner", "file", "old");
  {
    OutputFolder given_up(parent / "out", true);
    write_text_file(given_up.path() / "config.json", "half");
  }
  EXPECT_EQ(read_all(parent / "out" / "config.json"), "old");
  fs::create_directory(parent / "empty");
  for (const char* target : {"out", "empty", "absent"}) {
    OutputFolder folder(parent / target, true);
    write_text_file(folder.path() / "config.json", "new");
    folder.commit();
    EXPECT_THAT(names_in(parent / target), ElementsAre("config.json"));
    EXPECT_EQ(read_all(parent / target / "config.json"), "new");
  }
  EXPECT_THAT(parent.names(), UnorderedElementsAre("out", "empty", "absent"));
}

TEST(OutputFolder, DoesNotTakeATargetThatHasAppearedMeanwhile) {
  const TemporaryFolder parent;
  for (const bool force : {false, true}) {
    OutputFolder folder(parent / "out", force);
    make_folder(parent / "out", "letter", "precious");
    const std::string message = error_of([&] { folder.commit(); });
    EXPECT_THAT(message, HasSubstr(force ? "without config.json" : "exists already"));
    EXPECT_THAT(names_in(parent / "out"), ElementsAre("letter"));
    fs::remove_all(parent / "out");
  }
  EXPECT_THAT(parent.names(), IsEmpty());
}

// Makes a folder in another process, which is then killed.
void abandon(const fs::path& target) {
  const pid_t child = ::fork();
  if (child == 0) {
    OutputFolder folder(target, false);
    make_folder(folder.path() / "inner", "file", "x");
    ::raise(SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
}

TEST(OutputFolder, RemovesWhatAKilledProcessLeftBehind) {
  const TemporaryFolder parent;
  abandon(parent / "out");
  abandon(parent / "other");
  EXPECT_THAT(parent.names(), SizeIs(2));
  fs::create_directory(parent / ".out.01234567.tmp");                    // killed before it had a lock
  make_folder(parent / ".out.89abcdef.tmp", "config.json", "replaced");  // killed while removing the old one
  parent.write(".out.00000000.tmp", "a file");
  make_folder(parent / ".out.0000000.tmp", "file", "another name");
  make_folder(parent / ".out.0000000g.tmp", "file", "another name");
  fs::create_directory_symlink(parent / "nowhere", parent / ".out.11111111.tmp");
  {
    const OutputFolder folder(parent / "out", false);
    EXPECT_THAT(parent.names(), UnorderedElementsAre(folder.path().filename().string(), StartsWith(".other."),
                                                     ".out.00000000.tmp", ".out.0000000.tmp",
                                                     ".out.0000000g.tmp", ".out.11111111.tmp"));
  }
  EXPECT_THAT(parent.names(), SizeIs(5));
}

TEST(OutputFolder, LeavesOneThatIsStillWorkedOnAlone) {
  const TemporaryFolder parent;
  OutputFolder first(parent / "out", false);
  write_text_file(first.path() / "config.json", "first");
  OutputFolder second(parent / "out", false);
  EXPECT_NE(first.path(), second.path());
  EXPECT_EQ(read_all(first.path() / "config.json"), "first");
  first.commit();
  EXPECT_THAT(error_of([&] { second.commit(); }), HasSubstr("exists already"));
  EXPECT_EQ(read_all(parent / "out" / "config.json"), "first");
}

TEST(RequireFreeSpace, SaysWhatIsMissing) {
  const TemporaryFolder folder;
  require_free_space(folder.path(), 1);
  EXPECT_THAT(error_of([&] { require_free_space(folder.path(), uint64_t{1} << 62); }),
              AllOf(StartsWith(folder.path().string()), HasSubstr("expected 4611686018"),
                    HasSubstr("GB free, found ")));
}

TEST(Interruption, ThrowsOnceItIsRequested) {
  Interruption interruption;
  interruption.throw_if_requested();
  interruption.request();
  EXPECT_TRUE(interruption.requested());
  EXPECT_THROW(interruption.throw_if_requested(), Interrupted);
}

}  // namespace
}  // namespace chorale::io
