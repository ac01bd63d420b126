#include <csignal>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "io/checkpoint.h"
#include "test_files.h"

namespace chorale::io {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

struct RandomTensor {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
  std::string contents;

  TensorToWrite view() const { return {name, dtype, shape, bytes_of(contents)}; }
};

RandomTensor random_tensor(std::mt19937& random, int index) {
  RandomTensor t;
  t.name = fmt::format("layer.{}.\"quoted\"\n\u00e9", index);
  t.dtype = static_cast<DType>(random() % (static_cast<unsigned>(DType::boolean) + 1));
  size_t size = size_of(t.dtype);
  for (unsigned rank = random() % 4; rank > 0; --rank) {
    t.shape.push_back(static_cast<int64_t>(random() % 8));  // zero-size tensors and scalars included
    size *= static_cast<size_t>(t.shape.back());
  }
  t.contents.resize(size);
  for (char& c : t.contents) c = static_cast<char>(random());
  return t;
}

TEST(SafetensorsWriter, ReadsBackWhatItWrote) {
  TemporaryFolder folder;
  std::mt19937 random(7);
  for (int round = 0; round < 60; ++round) {
    std::vector<RandomTensor> tensors;
    for (int i = static_cast<int>(random() % 20); i > 0; --i) tensors.push_back(random_tensor(random, i));
    std::vector<TensorToWrite> views;
    for (const RandomTensor& t : tensors) views.push_back(t.view());
    std::map<std::string, std::string> metadata;
    if (round % 2 == 1) metadata = {{"format", "pt"}, {"round", std::to_string(round)}};

    const std::filesystem::path file = folder / "w.safetensors";
    write_safetensors(file, views, metadata);
    const std::string bytes = read_all(file);
    const SafetensorsHeader header = parse_safetensors_header(bytes_of(bytes), "w");
    EXPECT_EQ(header.metadata, metadata);
    EXPECT_EQ(header.data_start % 8, 0U);
    for (const auto& entry : header.tensors) EXPECT_EQ(entry.begin % size_of(entry.dtype), 0U);

    const Checkpoint checkpoint = Checkpoint::open_file(file);
    ASSERT_EQ(checkpoint.tensors().size(), tensors.size());
    for (const RandomTensor& t : tensors) {
      const TensorEntry* entry = checkpoint.find(t.name);
      ASSERT_NE(entry, nullptr);
      EXPECT_EQ(entry->dtype, t.dtype);
      EXPECT_EQ(entry->shape, t.shape);
      EXPECT_EQ(entry->file, "w.safetensors");
      EXPECT_TRUE(std::ranges::equal(entry->bytes, bytes_of(t.contents)));
    }
    EXPECT_THAT(folder.names(), ElementsAre("w.safetensors"));
  }
}

TEST(SafetensorsWriter, KeepsTheGivenOrderWithinAnElementSize) {
  TemporaryFolder folder;
  const std::string data(8, 'x');
  const std::vector<TensorToWrite> tensors = {{"z", DType::u8, {1}, bytes_of("z")},
                                              {"y", DType::f32, {2}, bytes_of(data)},
                                              {"a", DType::f32, {2}, bytes_of(data)}};
  write_safetensors(folder / "w.safetensors", tensors);
  const Checkpoint checkpoint = Checkpoint::open_file(folder / "w.safetensors");
  std::vector<std::string> names;
  for (const TensorEntry& t : checkpoint.tensors()) names.push_back(t.name);
  EXPECT_THAT(names, ElementsAre("y", "a", "z"));
}

TEST(SafetensorsWriter, RefusesTensorsThatDoNotFit) {
  TemporaryFolder folder;
  const auto refuse = [&](const std::vector<TensorToWrite>& tensors, std::string_view expected) {
    const std::string message = error_of([&] { write_safetensors(folder / "w.safetensors", tensors); });
    EXPECT_THAT(message, HasSubstr((folder / "w.safetensors").string()));
    EXPECT_THAT(message, HasSubstr(expected));
    EXPECT_THAT(folder.names(), IsEmpty());
  };
  refuse({{"t", DType::f32, {2}, bytes_of("1234")}},
         "tensor \"t\": expected 8 bytes for shape [2] of F32, found 4");
  refuse({{"t", DType::u8, {-1}, bytes_of("1")}}, "tensor \"t\"");
  refuse({{"t", DType::u8, {int64_t{1} << 40, int64_t{1} << 40}, {}}}, "tensor \"t\"");
  refuse({{"t", DType::u8, {0}, {}}, {"t", DType::u8, {0}, {}}}, "tensor \"t\"");
  refuse({{"__metadata__", DType::u8, {0}, {}}}, "tensor \"__metadata__\"");
  refuse({{"\xff", DType::u8, {0}, {}}}, "UTF-8");
}

TEST(SafetensorsWriter, LeavesNothingBehindWhenTheFolderCannotBeWritten) {
  TemporaryFolder folder;
  folder.write("file", "x");
  EXPECT_THAT(error_of([&] { write_safetensors(folder / "absent" / "w.safetensors", {}); }),
              HasSubstr("absent/w.safetensors: cannot create"));
  EXPECT_THAT(error_of([&] { write_safetensors(folder / "file" / "w.safetensors", {}); }),
              HasSubstr("file/w.safetensors: cannot create"));
  std::filesystem::create_directory(folder / "taken");
  EXPECT_THAT(error_of([&] { write_safetensors(folder / "taken", {}); }),
              HasSubstr("taken: expected a file or nothing, found a folder"));
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_THAT(error_of([&] { write_safetensors(folder / "pipe", {}); }),
              HasSubstr("pipe: expected a file or nothing, found a device"));
  EXPECT_THAT(folder.names(), testing::UnorderedElementsAre("file", "taken", "pipe"));
}

// A limit on file sizes stands in for a full disk: write() fails in the middle.
TEST(SafetensorsWriter, KeepsTheOldFileWhenTheDiskIsFull) {
  TemporaryFolder folder;
  const std::filesystem::path file = folder / "w.safetensors";
  write_safetensors(file, {});
  const std::string before = read_all(file);

  const std::string large(1 << 20, 'x');
  const std::vector<TensorToWrite> tensors = {{"t", DType::u8, {1 << 20}, bytes_of(large)}};
  rlimit old_limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old_limit), 0);
  rlimit limit = old_limit;
  limit.rlim_cur = 64 << 10;
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  const std::string message = error_of([&] { write_safetensors(file, tensors); });
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &old_limit), 0);
  std::signal(SIGXFSZ, old_handler);

  EXPECT_THAT(message, HasSubstr(file.string() + ": cannot write the file: "));
  EXPECT_EQ(read_all(file), before);
  EXPECT_THAT(folder.names(), ElementsAre("w.safetensors"));
}

}  // namespace
}  // namespace chorale::io
