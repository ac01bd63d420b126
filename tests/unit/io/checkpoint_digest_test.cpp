#include "io/checkpoint_digest.h"

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "unit/io/test_files.h"

namespace chorale::io {
namespace {

namespace fs = std::filesystem;

void change_byte(const fs::path& file, uint64_t at) {
  std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
  stream.seekp(static_cast<std::streamoff>(at));
  stream.put('#');
}

struct Digests {
  std::string headers, samples;
};

Digests digests_of(const fs::path& folder, int threads = 2) {
  ThreadPool pool(threads);
  const Checkpoint checkpoint = Checkpoint::open(folder);
  return {digest_of_headers(checkpoint), digest_of_samples(checkpoint, pool)};
}

TEST(CheckpointDigest, EveryByteOfASmallCheckpointCounts) {
  const TemporaryFolder folder;
  const std::string header =
      R"({"a":{"dtype":"U8","shape":[3000],"data_offsets":[0,3000]},"b":{"dtype":"U8","shape":[7],"data_offsets":[3000,3007]}})";
  folder.write("model.safetensors", safetensors(header, 3007));
  const Digests before = digests_of(folder.path());
  EXPECT_EQ(digests_of(folder.path(), 3).samples, before.samples);
  const uint64_t data = 8 + header.size();
  for (const uint64_t at : {0, 1, 511, 1500, 2999, 3000, 3006}) {
    folder.write("model.safetensors", safetensors(header, 3007));
    change_byte(folder / "model.safetensors", data + at);
    EXPECT_NE(digests_of(folder.path()).samples, before.samples) << at;
    EXPECT_EQ(digests_of(folder.path()).headers, before.headers);
  }
  std::string renamed = header;
  renamed.replace(renamed.find("\"b\""), 3, "\"c\"");
  folder.write("model.safetensors", safetensors(renamed, 3007));
  EXPECT_NE(digests_of(folder.path()).headers, before.headers);
  EXPECT_EQ(digests_of(folder.path()).samples, before.samples);
}

TEST(CheckpointDigest, OfALargeOneEveryTensorCounts) {
  const TemporaryFolder folder;
  const std::string header =
      R"({"large":{"dtype":"U8","shape":[50000000],"data_offsets":[0,50000000]},"small":{"dtype":"U8","shape":[9],"data_offsets":[50000000,50000009]}})";
  const fs::path file = folder / "model.safetensors";
  folder.write("model.safetensors", safetensors(header, 0));
  fs::resize_file(file, 8 + header.size() + 50'000'009);  // a hole, which takes no room on the disk
  const std::string before = digests_of(folder.path()).samples;
  const uint64_t data = 8 + header.size();
  for (const uint64_t at : {uint64_t{0}, uint64_t{49'999'999}, uint64_t{50'000'008}}) {
    change_byte(file, data + at);
    const std::string after = digests_of(folder.path()).samples;
    EXPECT_NE(after, before) << at;
    fs::resize_file(file, data + at);
    fs::resize_file(file, data + 50'000'009);
  }
}

TEST(FileDigest, TellsFilesApart) {
  const TemporaryFolder folder;
  EXPECT_EQ(digest_of_file(folder / "absent"), "none");
  folder.write("one", "text");
  folder.write("same", "text");
  folder.write("other", "text ");
  folder.write("empty", "");
  EXPECT_EQ(digest_of_file(folder / "one"), digest_of_file(folder / "same"));
  EXPECT_NE(digest_of_file(folder / "one"), digest_of_file(folder / "other"));
  EXPECT_NE(digest_of_file(folder / "empty"), "none");
}

}  // namespace
}  // namespace chorale::io
