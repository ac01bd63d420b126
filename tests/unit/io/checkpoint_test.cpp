#include "io/checkpoint.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "source_dir.h"
#include "test_files.h"

namespace chorale::io {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

// A file with one U8 tensor of this name and one byte of data.
std::string one_tensor(std::string_view name) {
  return safetensors(fmt::format(R"({{"{}":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}}})", name), 1);
}

constexpr std::string_view kIndex = "model.safetensors.index.json";

TEST(Checkpoint, OpensTheBundledModel) {
  const std::filesystem::path directory = source_dir() / "models/tales-moe";
  const Checkpoint checkpoint = Checkpoint::open(directory);
  EXPECT_EQ(checkpoint.path(), directory);
  EXPECT_EQ(checkpoint.total_bytes(), 27'844'608U);
  // Per layer 16 experts of 3, router, 4 projections and 4 norms; outside of them the embedding, norm and
  // head.
  EXPECT_EQ(checkpoint.tensors().size(), 6U * (16 * 3 + 1 + 4 + 4) + 3);
  const TensorEntry* embedding = checkpoint.find("model.embed_tokens.weight");
  ASSERT_NE(embedding, nullptr);
  EXPECT_EQ(embedding->dtype, DType::bf16);
  EXPECT_EQ(embedding->shape, (std::vector<int64_t>{4096, 256}));
  EXPECT_EQ(embedding->bytes.size(), 4096U * 256 * 2);
  EXPECT_EQ(embedding->file, "model-00001-of-00003.safetensors");
  EXPECT_EQ(checkpoint.find("model.embed_tokens"), nullptr);

  // Releasing drops pages, not contents.
  const std::vector<std::byte> before(embedding->bytes.begin(), embedding->bytes.end());
  checkpoint.release(*embedding);
  EXPECT_TRUE(std::equal(before.begin(), before.end(), embedding->bytes.begin(), embedding->bytes.end()));
}

TEST(Checkpoint, StaysValidWhenMoved) {
  TemporaryFolder folder;
  folder.write("model.safetensors", one_tensor("t"));
  Checkpoint first = Checkpoint::open(folder.path());
  const Checkpoint second = std::move(first);
  ASSERT_NE(second.find("t"), nullptr);
  EXPECT_EQ(second.find("t")->bytes[0], std::byte{'x'});
}

TEST(Checkpoint, PrefersTheSingleFileThenTheIndexThenAll) {
  TemporaryFolder folder;
  folder.write("b.safetensors", one_tensor("b"));
  folder.write("a.safetensors", one_tensor("a"));
  folder.write(".hidden.safetensors", "broken");
  folder.write("notes.txt", "not weights");
  const Checkpoint all = Checkpoint::open(folder.path());
  ASSERT_EQ(all.tensors().size(), 2U);
  EXPECT_EQ(all.tensors()[0].name, "a");
  EXPECT_EQ(all.tensors()[1].file, "b.safetensors");

  folder.write("c.safetensors", one_tensor("not_listed"));
  folder.write(kIndex,
               R"({"metadata":{"total_size":2},"weight_map":{"a":"a.safetensors","b":"b.safetensors"}})");
  EXPECT_EQ(Checkpoint::open(folder.path()).tensors().size(), 2U);

  // The index of the shards that it was merged from may still be there.
  folder.write("model.safetensors", one_tensor("single"));
  folder.write(kIndex, R"({"weight_map":{"gone":"model-00001-of-00002.safetensors"}})");
  EXPECT_EQ(Checkpoint::open(folder.path()).tensors().size(), 1U);
  EXPECT_NE(Checkpoint::open(folder.path()).find("single"), nullptr);
}

// As transformers: the index tells which files there are, and these tell which tensors.
TEST(Checkpoint, TakesTheTensorsOfTheShardsWhateverTheIndexSaysOfThem) {
  TemporaryFolder folder;
  folder.write("a.safetensors", safetensors(R"({"head":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                                            R"("t":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                                            2));
  folder.write("b.safetensors",
               safetensors(R"({"head":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})", 2));
  const auto open = [&](const char* index) {
    folder.write(kIndex, index);
    return Checkpoint::open(folder.path());
  };
  const Checkpoint unlisted = open(R"({"weight_map":{"t":"a.safetensors"}})");
  EXPECT_EQ(unlisted.tensors().size(), 2U);
  EXPECT_EQ(unlisted.at("head").file, "a.safetensors");
  const Checkpoint elsewhere = open(R"({"weight_map":{"t":"b.safetensors","head":"a.safetensors"}})");
  EXPECT_EQ(elsewhere.at("t").file, "a.safetensors");
  for (const char* listed : {"a.safetensors", "b.safetensors"}) {
    const Checkpoint twice =
        open(fmt::format(R"({{"weight_map":{{"t":"{}","head":"{}"}}}})",
                         listed == std::string("a.safetensors") ? "b.safetensors" : "a.safetensors", listed)
                 .c_str());
    EXPECT_EQ(twice.tensors().size(), 2U);
    EXPECT_EQ(twice.at("head").file, listed);
    EXPECT_EQ(twice.at("head").bytes.size(), listed == std::string("a.safetensors") ? 1U : 2U);
  }
}

// [E, 2 * I, H] and [E, H, I], here with E = 3, I = 2, H = 5: each expert has its rows, gate before up.
TEST(Checkpoint, SplitsExpertsThatAreFused) {
  constexpr size_t kGateUp = 3 * 4 * 5;
  constexpr size_t kDown = 3 * 5 * 2;
  std::string file = safetensors(
      R"({"model.layers.7.mlp.experts.gate_up_proj":{"dtype":"U8","shape":[3,4,5],"data_offsets":[0,60]},)"
      R"("model.layers.7.mlp.experts.down_proj":{"dtype":"U8","shape":[3,5,2],"data_offsets":[60,90]},)"
      R"("model.layers.7.mlp.gate.weight":{"dtype":"U8","shape":[2],"data_offsets":[90,92]}})",
      kGateUp + kDown + 2);
  const size_t data = file.size() - (kGateUp + kDown + 2);
  for (size_t i = 0; i < kGateUp + kDown; ++i) file[data + i] = static_cast<char>(i);
  TemporaryFolder folder;
  folder.write("model.safetensors", file);
  const Checkpoint checkpoint = Checkpoint::open(folder.path());
  EXPECT_EQ(checkpoint.tensors().size(), 3U * 3U + 1U);
  EXPECT_EQ(checkpoint.find("model.layers.7.mlp.experts.gate_up_proj"), nullptr);
  EXPECT_NE(checkpoint.find("model.layers.7.mlp.gate.weight"), nullptr);
  EXPECT_EQ(checkpoint.total_bytes(), kGateUp + kDown + 2);
  for (size_t expert = 0; expert < 3; ++expert) {
    const std::string prefix = fmt::format("model.layers.7.mlp.experts.{}.", expert);
    const auto expect = [&](const std::string& name, std::vector<int64_t> shape, size_t first) {
      const TensorEntry* tensor = checkpoint.find(prefix + name + ".weight");
      ASSERT_NE(tensor, nullptr) << name;
      EXPECT_EQ(tensor->shape, shape);
      ASSERT_EQ(tensor->bytes.size(), 10U);
      for (size_t i = 0; i < 10; ++i) EXPECT_EQ(static_cast<size_t>(tensor->bytes[i]), first + i) << name;
    };
    expect("gate_proj", {2, 5}, expert * 20);
    expect("up_proj", {2, 5}, expert * 20 + 10);
    expect("down_proj", {5, 2}, kGateUp + expert * 10);
  }
}

TEST(Checkpoint, RefusesAnExpertThatIsFusedAndByItself) {
  TemporaryFolder folder;
  folder.write(
      "model.safetensors",
      safetensors(R"({"l.mlp.experts.down_proj":{"dtype":"U8","shape":[1,1,1],"data_offsets":[0,1]},)"
                  R"("l.mlp.experts.0.down_proj.weight":{"dtype":"U8","shape":[1,1],"data_offsets":[1,2]}})",
                  2));
  EXPECT_THAT(error_of([&] { Checkpoint::open(folder.path()); }), HasSubstr("fused and by itself"));
}

TEST(Checkpoint, FollowsSymbolicLinksAsTheHubCacheHasThem) {
  TemporaryFolder blobs;
  blobs.write("0123abcd", one_tensor("t"));
  TemporaryFolder folder;
  std::filesystem::create_symlink(blobs / "0123abcd", folder / "model-00001-of-00001.safetensors");
  folder.write(kIndex, R"({"weight_map":{"t":"model-00001-of-00001.safetensors"}})");
  EXPECT_NE(Checkpoint::open(folder.path()).find("t"), nullptr);
}

struct BadIndex {
  std::string what;
  std::string index;
  std::string culprit;                // the file that the message begins with
  std::vector<std::string> expected;  // all must be in the message
};

TEST(Checkpoint, RefusesBadIndexes) {
  TemporaryFolder folder;
  folder.write("a.safetensors", one_tensor("a"));
  folder.write("b.safetensors", one_tensor("b"));
  folder.write("a_again.safetensors", one_tensor("a"));
  folder.write("broken.safetensors", "junk");
  const std::string index(kIndex);
  const std::vector<BadIndex> cases = {
      {"empty", "", index, {"invalid JSON"}},
      {"not an object", "[]", index, {"expected a JSON object", "an array"}},
      {"no weight map", "{}", index, {"\"weight_map\"", "found none"}},
      {"weight map an array",
       R"({"weight_map":["a.safetensors"]})",
       index,
       {"\"weight_map\"", "array of 1 values"}},
      {"weight map null", R"({"weight_map":null})", index, {"\"weight_map\"", "found null"}},
      {"weight map empty", R"({"weight_map":{}})", index, {"\"weight_map\"", "at least one tensor"}},
      {"not a name", R"({"weight_map":{"a":1}})", index, {"tensor \"a\"", "a file name, found 1"}},
      {"a name list", R"({"weight_map":{"a":["x"]}})", index, {"tensor \"a\"", "array of 1 values"}},
      {"duplicate",
       R"({"weight_map":{"a":"a.safetensors","a":"b.safetensors"}})",
       index,
       {"\"a\"", "duplicate key"}},
      {"parent folder",
       R"({"weight_map":{"a":"../a.safetensors"}})",
       index,
       {"\"a\"", "found \"../a.safetensors\""}},
      {"absolute", R"({"weight_map":{"a":"/etc/passwd"}})", index, {"\"a\"", "found \"/etc/passwd\""}},
      {"subfolder", R"({"weight_map":{"a":"sub/a.safetensors"}})", index, {"\"a\"", "plain name"}},
      {"dots", R"({"weight_map":{"a":".."}})", index, {"\"a\"", "plain name"}},
      {"dot", R"({"weight_map":{"a":"."}})", index, {"\"a\"", "plain name"}},
      {"no name", R"({"weight_map":{"a":""}})", index, {"\"a\"", "plain name"}},
      {"NUL in a name", R"({"weight_map":{"a":"a.safetensors\u0000"}})", index, {"\"a\"", "plain name"}},
      {"absent file",
       R"({"weight_map":{"a":"c.safetensors"}})",
       index,
       {"\"a\"", "\"c.safetensors\"", "found none"}},
      {"broken shard",
       R"({"weight_map":{"a":"broken.safetensors"}})",
       "broken.safetensors",
       {"at least 8 bytes"}},
      {"tensor in no shard",
       R"({"weight_map":{"a":"a.safetensors","x":"a.safetensors"}})",
       index,
       {"tensor \"x\"", "expected in \"a.safetensors\"", "found in no file"}},
      {"too deep",
       R"({"weight_map":)" + std::string(100, '[') + std::string(100, ']') + "}",
       index,
       {"nested"}},
  };
  for (const BadIndex& bad : cases) {
    SCOPED_TRACE(bad.what);
    folder.write(kIndex, bad.index);
    const std::string message = error_of([&] { Checkpoint::open(folder.path()); });
    EXPECT_THAT(message, StartsWith((folder / bad.culprit).string() + ": "));
    for (const std::string& part : bad.expected) EXPECT_THAT(message, HasSubstr(part));
  }
}

TEST(Checkpoint, RefusesOneTensorInTwoFilesWithoutAnIndex) {
  TemporaryFolder folder;
  folder.write("a.safetensors", one_tensor("t"));
  folder.write("b.safetensors", one_tensor("t"));
  const std::string message = error_of([&] { Checkpoint::open(folder.path()); });
  EXPECT_THAT(message, HasSubstr("b.safetensors: tensor \"t\""));
  EXPECT_THAT(message, HasSubstr("found also in a.safetensors"));
}

TEST(Checkpoint, RefusesFoldersAndFilesThatAreNone) {
  TemporaryFolder folder;
  EXPECT_THAT(error_of([&] { Checkpoint::open(folder.path()); }),
              HasSubstr("*.safetensors files, found none"));
  EXPECT_THAT(error_of([&] { Checkpoint::open(folder / "absent"); }), HasSubstr("absent: expected a folder"));
  folder.write("file", "x");
  EXPECT_THAT(error_of([&] { Checkpoint::open(folder / "file"); }), HasSubstr("found a file"));
  EXPECT_THAT(error_of([&] { Checkpoint::open_file(folder / "absent"); }), HasSubstr("absent: cannot open"));
  EXPECT_THAT(error_of([&] { Checkpoint::open_file(folder.path()); }), HasSubstr("found a directory"));
  folder.write("empty.safetensors", "");
  EXPECT_THAT(error_of([&] { Checkpoint::open_file(folder / "empty.safetensors"); }),
              HasSubstr("empty.safetensors: expected a safetensors file, found an empty file"));
  ASSERT_EQ(::mkfifo((folder / "pipe.safetensors").c_str(), 0600), 0);
  EXPECT_THAT(error_of([&] { Checkpoint::open_file(folder / "pipe.safetensors"); }),
              HasSubstr("a regular file"));
  std::filesystem::create_symlink("nowhere", folder / "model.safetensors");
  EXPECT_THAT(error_of([&] { Checkpoint::open(folder.path()); }),
              HasSubstr("model.safetensors: cannot open"));
}

}  // namespace
}  // namespace chorale::io
