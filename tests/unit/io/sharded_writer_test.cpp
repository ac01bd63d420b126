#include "io/sharded_writer.h"

#include <csignal>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/checkpoint.h"
#include "test_files.h"

namespace chorale::io {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

struct Tensors {
  std::vector<TensorPlan> plan;
  std::map<std::string, std::string> contents;

  void add(const std::string& name, DType dtype, std::vector<int64_t> shape, std::string bytes) {
    plan.push_back({name, dtype, std::move(shape)});
    contents[name] = std::move(bytes);
  }

  // Gives the bytes in pieces of random sizes, and notes who was asked for.
  TensorSource source(std::mt19937& random, std::vector<std::string>* asked = nullptr) const {
    return [this, &random, asked](const TensorPlan& tensor, const TensorSink& sink) {
      if (asked != nullptr) asked->push_back(tensor.name);
      std::string_view left = contents.at(tensor.name);
      while (!left.empty()) {
        const size_t size = 1 + random() % left.size();
        sink(bytes_of(left.substr(0, size)));
        left.remove_prefix(size);
      }
    };
  }
};

Tensors random_tensors(std::mt19937& random) {
  constexpr std::array<DType, 4> kTypes = {DType::bf16, DType::f32, DType::u8, DType::i64};
  Tensors tensors;
  for (size_t i = random() % 30; i > 0; --i) {
    const DType dtype = kTypes[random() % kTypes.size()];
    std::vector<int64_t> shape;
    size_t size = size_of(dtype);
    for (size_t rank = random() % 4; rank > 0; --rank) {
      shape.push_back(static_cast<int64_t>(random() % 12));  // zero-size tensors and scalars included
      size *= static_cast<size_t>(shape.back());
    }
    std::string bytes(size, '\0');
    for (char& c : bytes) c = static_cast<char>(random());
    tensors.add(fmt::format("t.{}.\"quoted\"\n\u00e9", i), dtype, std::move(shape), std::move(bytes));
  }
  return tensors;
}

void expect_same(const Checkpoint& checkpoint, const Tensors& tensors) {
  ASSERT_EQ(checkpoint.tensors().size(), tensors.plan.size());
  for (const TensorPlan& plan : tensors.plan) {
    const TensorEntry* entry = checkpoint.find(plan.name);
    ASSERT_NE(entry, nullptr);
    EXPECT_EQ(entry->dtype, plan.dtype);
    EXPECT_EQ(entry->shape, plan.shape);
    EXPECT_TRUE(std::ranges::equal(entry->bytes, bytes_of(tensors.contents.at(plan.name))));
  }
}

TEST(ShardedWriter, ReadsBackWhatItWroteInShardsThatAreNotTooLarge) {
  std::mt19937 random(11);
  size_t sharded = 0;
  for (int round = 0; round < 80; ++round) {
    const TemporaryFolder folder;
    const Tensors tensors = random_tensors(random);
    ShardedWriteOptions options;
    options.max_shard_bytes = 500 + random() % 8000;
    uint64_t written = 0;
    options.on_bytes = [&](uint64_t bytes) { written += bytes; };
    write_sharded_checkpoint(folder.path(), tensors.plan, tensors.source(random), options);

    const Checkpoint checkpoint = Checkpoint::open(folder.path());
    expect_same(checkpoint, tensors);
    EXPECT_EQ(written, checkpoint.total_bytes());
    std::map<std::string, size_t> tensors_in;
    for (const TensorEntry& t : checkpoint.tensors()) ++tensors_in[t.file];
    sharded += tensors_in.size() > 1 ? 1 : 0;
    for (const auto& [file, count] : tensors_in) {
      const std::string bytes = read_all(folder / file);
      EXPECT_TRUE(count == 1 || bytes.size() <= options.max_shard_bytes) << bytes.size();
      const SafetensorsHeader header = parse_safetensors_header(bytes_of(bytes), file);
      EXPECT_THAT(header.metadata, ElementsAre(testing::Pair("format", "pt")));
      for (const auto& entry : header.tensors) EXPECT_EQ(entry.begin % size_of(entry.dtype), 0U);
    }
  }
  EXPECT_GT(sharded, 20U);
}

TEST(ShardedWriter, NamesShardsAndIndexAsHuggingFaceDoes) {
  const TemporaryFolder folder;
  std::mt19937 random(1);
  Tensors tensors;
  tensors.add("b", DType::u8, {400}, std::string(400, 'b'));
  tensors.add("a", DType::u8, {400}, std::string(400, 'a'));
  tensors.add("large", DType::u8, {5000}, std::string(5000, 'l'));
  tensors.add("c", DType::u8, {3}, "ccc");
  std::vector<std::string> asked;
  write_sharded_checkpoint(folder.path(), tensors.plan, tensors.source(random, &asked),
                           {.max_shard_bytes = 1300});
  EXPECT_THAT(asked, ElementsAre("b", "a", "large", "c"));
  EXPECT_THAT(folder.names(),
              UnorderedElementsAre("model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
                                   "model-00003-of-00003.safetensors", "model.safetensors.index.json"));
  const auto index = nlohmann::json::parse(read_all(folder / "model.safetensors.index.json"));
  EXPECT_EQ(index, nlohmann::json::parse(R"({"metadata": {"total_size": 5803}, "weight_map": {
      "b": "model-00001-of-00003.safetensors", "a": "model-00001-of-00003.safetensors",
      "large": "model-00002-of-00003.safetensors", "c": "model-00003-of-00003.safetensors"}})"));
}

TEST(ShardedWriter, WritesOneFileWithoutAnIndex) {
  const TemporaryFolder folder;
  std::mt19937 random(1);
  Tensors tensors;
  tensors.add("one", DType::u8, {5000}, std::string(5000, 'l'));
  write_sharded_checkpoint(folder.path(), tensors.plan, tensors.source(random), {.max_shard_bytes = 10});
  EXPECT_THAT(folder.names(), ElementsAre("model.safetensors"));
  expect_same(Checkpoint::open(folder.path()), tensors);
}

TEST(ShardedWriter, RefusesPlansThatCannotBeWritten) {
  const TemporaryFolder folder;
  const auto refuse = [&](const std::vector<TensorPlan>& plan, std::string_view expected) {
    const auto never = [](const TensorPlan&, const TensorSink&) { FAIL() << "asked for bytes"; };
    const std::string message =
        error_of([&] { write_sharded_checkpoint(folder.path(), plan, never, {.max_shard_bytes = 1}); });
    EXPECT_THAT(message, HasSubstr(folder.path().string()));
    EXPECT_THAT(message, HasSubstr(expected));
    EXPECT_THAT(folder.names(), IsEmpty());
  };
  refuse({{"t", DType::u8, {1}}, {"t", DType::u8, {1}}}, "tensor \"t\": expected a name of its own");
  refuse({{"t", DType::u8, {-1}}},
         "tensor \"t\": expected a shape whose bytes can be counted, found [-1] of U8");
  refuse({{"t", DType::f32, {int64_t{1} << 40, int64_t{1} << 40}}}, "tensor \"t\"");
  refuse({{"\xff", DType::u8, {1}}}, "UTF-8");
}

TEST(ShardedWriter, EndsWithWhatTheCallbackThrows) {
  const TemporaryFolder folder;
  std::mt19937 random(1);
  Tensors tensors;
  for (const char* name : {"a", "b"}) tensors.add(name, DType::u8, {400}, std::string(400, 'x'));
  int calls = 0;
  const auto stop = [&](uint64_t) {
    if (++calls > 4) throw std::runtime_error("stop");
  };
  EXPECT_THROW(
      write_sharded_checkpoint(folder.path(), tensors.plan, tensors.source(random), {.on_bytes = stop}),
      std::runtime_error);
  EXPECT_THAT(folder.names(), IsEmpty());
}

TEST(ShardedWriterDeathTest, InsistsOnAllBytesOfATensor) {
  const TemporaryFolder folder;
  const std::vector<TensorPlan> plan = {{"t", DType::u8, {3}}};
  const auto give = [&](std::string_view bytes) {
    write_sharded_checkpoint(folder.path(), plan,
                             [&](const TensorPlan&, const TensorSink& sink) { sink(bytes_of(bytes)); });
  };
  EXPECT_DEATH(give("12"), "expected 3 bytes, given 2");
  EXPECT_DEATH(give("1234"), "too many bytes");
}

// A limit on file sizes stands in for a full disk: write() fails in the middle of the second tensor.
TEST(ShardedWriter, LeavesNoHalfShardWhenAWriteFails) {
  const TemporaryFolder folder;
  std::mt19937 random(1);
  Tensors tensors;
  for (const char* name : {"a", "b"}) tensors.add(name, DType::u8, {40'000}, std::string(40'000, 'x'));
  rlimit old_limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old_limit), 0);
  rlimit limit = old_limit;
  limit.rlim_cur = 60'000;
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  const std::string message =
      error_of([&] { write_sharded_checkpoint(folder.path(), tensors.plan, tensors.source(random)); });
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &old_limit), 0);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_THAT(message, HasSubstr((folder / "model.safetensors").string() + ": cannot write the file: "));
  EXPECT_THAT(folder.names(), IsEmpty());
}

// In a process with a file system of 1 MB of its own, where the system allows that.
TEST(ShardedWriter, SaysThatTheDiskIsFull) {
  constexpr int kNotAllowed = 77;
  const TemporaryFolder folder;
  const pid_t child = ::fork();
  if (child == 0) {
    if (::unshare(CLONE_NEWNS) != 0) {  // not root
      const auto user = ::getuid();
      const auto group = ::getgid();
      if (::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) ::_exit(kNotAllowed);
      std::ofstream("/proc/self/uid_map") << "0 " << user << " 1";
      std::ofstream("/proc/self/setgroups") << "deny";
      std::ofstream("/proc/self/gid_map") << "0 " << group << " 1";
    }
    if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) ::_exit(kNotAllowed);
    if (::mount("none", folder.path().c_str(), "tmpfs", 0, "size=1m") != 0) ::_exit(kNotAllowed);
    std::mt19937 random(1);
    Tensors tensors;
    for (const char* name : {"a", "b"}) tensors.add(name, DType::u8, {700'000}, std::string(700'000, 'x'));
    try {
      write_sharded_checkpoint(folder.path(), tensors.plan, tensors.source(random));
    } catch (const Error& error) {
      const bool told = std::string_view(error.what())
                            .ends_with("model.safetensors: cannot write the file: No space left on device");
      ::_exit(told && folder.names().empty() ? 0 : 1);
    }
    ::_exit(2);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == kNotAllowed) GTEST_SKIP() << "this system does not let a test mount";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace chorale::io
