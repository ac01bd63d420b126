// Files whose bytes cannot be read any more once they are mapped.
#include "io/unreadable_pages.h"

#include <csignal>
#include <cstring>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include "io/checkpoint.h"
#include "io/file_access.h"
#include "unit/io/test_files.h"

namespace chorale::io {
namespace {

using testing::AllOf;
using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;

namespace fs = std::filesystem;

size_t page() {
  return static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

size_t sum_of(std::span<const std::byte> bytes) {
  size_t sum = 0;
  for (const std::byte byte : bytes) sum += static_cast<size_t>(byte);
  return sum;
}

TEST(UnreadablePages, AFileThatIsShortenedReadsAsZerosAndIsAnError) {
  const TemporaryFolder folder;
  const fs::path path = folder / "file";
  for (const size_t left : {size_t{0}, page(), 3 * page(), 3 * page() + 100}) {
    folder.write("file", std::string(8 * page(), '\1'));
    const MappedFile file(path);
    EXPECT_EQ(sum_of(file.bytes()), 8 * page());
    EXPECT_NO_THROW(file.check_read());
    file.release(file.bytes());
    fs::resize_file(path, left);
    EXPECT_EQ(sum_of(file.bytes()), left);
    EXPECT_FALSE(file.could_read());
    const size_t first = (left + page() - 1) / page() * page();
    EXPECT_THAT(error_of([&] { file.check_read(); }),
                AllOf(StartsWith(path.string() + ": cannot read at byte "), HasSubstr(std::to_string(left)),
                      HasSubstr(std::to_string(8 * page()))));
    EXPECT_LE(left, first);
  }
}

// The kernel fills the last page up with zeros, and nobody is told.
TEST(UnreadablePages, AFileThatIsShortenedWithinItsLastPageIsAnError) {
  const TemporaryFolder folder;
  folder.write("file", std::string(page() + 500, '\1'));
  const MappedFile file(folder / "file");
  fs::resize_file(folder / "file", page() + 499);
  EXPECT_EQ(sum_of(file.bytes()), page() + 499);
  EXPECT_THAT(error_of([&] { file.check_read(); }),
              HasSubstr("cannot read at byte " + std::to_string(page() + 499)));
}

TEST(UnreadablePages, FilesThatGrowOrAreReplacedAreNoError) {
  const TemporaryFolder folder;
  folder.write("file", std::string(2 * page(), '\1'));
  folder.write("other", "x");
  const MappedFile file(folder / "file");
  fs::resize_file(folder / "file", 3 * page());
  EXPECT_EQ(sum_of(file.bytes()), 2 * page());
  EXPECT_NO_THROW(file.check_read());
  fs::rename(folder / "other", folder / "file");
  EXPECT_EQ(sum_of(file.bytes()), 2 * page());
  EXPECT_NO_THROW(file.check_read());
}

TEST(UnreadablePages, EachFileHasItsOwnAndManyThreadsMayRead) {
  const TemporaryFolder folder;
  folder.write("a", std::string(64 * page(), '\1'));
  folder.write("b", std::string(64 * page(), '\1'));
  const MappedFile whole(folder / "a"), shortened(folder / "b");
  fs::resize_file(folder / "b", 8 * page());
  std::vector<size_t> sums(4);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < sums.size(); ++t)
    threads.emplace_back([&, t] { sums[t] = sum_of(whole.bytes()) + sum_of(shortened.bytes()); });
  for (std::thread& thread : threads) thread.join();
  for (const size_t sum : sums) EXPECT_EQ(sum, 72 * page());
  EXPECT_NO_THROW(whole.check_read());
  EXPECT_THAT(error_of([&] { shortened.check_read(); }), StartsWith((folder / "b").string()));
  // The place of a file that is gone serves the next one.
  for (int i = 0; i < 100; ++i) EXPECT_NO_THROW(MappedFile(folder / "a").check_read());
}

TEST(UnreadablePagesDeathTest, ABusErrorOfAnybodyElseIsWhatItWas) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  const TemporaryFolder folder;
  folder.write("watched", "x");
  folder.write("file", std::string(2 * page(), '\0'));
  const auto read_behind_the_end = [&] {
    const MappedFile watched(folder / "watched");
    FILE* file = std::fopen((folder / "file").c_str(), "r");
    const auto* bytes =
        static_cast<const volatile char*>(mmap(nullptr, 2 * page(), PROT_READ, MAP_PRIVATE, fileno(file), 0));
    fs::resize_file(folder / "file", 0);
    std::_Exit(bytes[0]);
  };
  // A sanitizer's own handler ends the process with a report.
  const auto by_the_signal = [](int status) {
    return testing::KilledBySignal(SIGBUS)(status) || testing::KilledBySignal(SIGABRT)(status) ||
           (WIFEXITED(status) && WEXITSTATUS(status) != 0);
  };
  EXPECT_EXIT(read_behind_the_end(), by_the_signal, "");
  const auto be_sent_one = [&] {
    const MappedFile watched(folder / "watched");
    raise(SIGBUS);
    std::_Exit(0);
  };
  EXPECT_EXIT(be_sent_one(), by_the_signal, "");
}

TEST(UnreadablePages, ACheckpointNamesTheFile) {
  const TemporaryFolder folder;
  const auto shard = [](std::string_view name) {
    return safetensors(
        R"({")" + std::string(name) + R"(":{"dtype":"U8","shape":[65536],"data_offsets":[0,65536]}})", 65536);
  };
  folder.write("a.safetensors", shard("one"));
  folder.write("b.safetensors", shard("two"));
  const Checkpoint checkpoint = Checkpoint::open(folder.path());
  EXPECT_TRUE(checkpoint.could_read());
  fs::resize_file(folder / "b.safetensors", page());
  // What is made of zeros in place of the bytes is no reason to look for elsewhere.
  const auto read = [&] {
    if (checkpoint.at("two").bytes.back() == std::byte{0}) throw Error("the scale is zero");
  };
  EXPECT_THAT(error_of([&] { checkpoint.reading(read); }),
              AllOf(StartsWith((folder / "b.safetensors").string() + ": cannot read at byte "),
                    EndsWith("now has " + std::to_string(page()))));
  EXPECT_FALSE(checkpoint.could_read());
  EXPECT_EQ(checkpoint.at("one").bytes.back(), std::byte{'x'});
}

}  // namespace
}  // namespace chorale::io
