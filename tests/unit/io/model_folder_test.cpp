#include "io/model_folder.h"

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "io/checkpoint.h"
#include "io/foreign_file.h"
#include "io/model_config.h"
#include "io/tokenizer_config.h"
#include "unit/io/test_files.h"

namespace chorale::io {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// models--ORG--NAME with snapshots, in a folder of its own.
class Cache {
 public:
  explicit Cache(const std::string& name) : model_(folder_ / name) {}
  void add_snapshot(const std::string& commit) const {
    fs::create_directories(model_ / "snapshots" / commit);
    std::ofstream(model_ / "snapshots" / commit / "config.json") << "{}";
  }
  void set_main(const std::string& commit) const {
    fs::create_directories(model_ / "refs");
    std::ofstream(model_ / "refs" / "main") << commit;
  }
  const fs::path& model() const { return model_; }

 private:
  TemporaryFolder folder_;
  fs::path model_;
};

TEST(ModelFolder, OfTheHubsCacheIsTheSnapshotOfMain) {
  const Cache cache("models--Qwen--Qwen3-30B-A3B");
  cache.add_snapshot("111");
  cache.add_snapshot("222");
  cache.set_main("222");
  const fs::path snapshots = cache.model() / "snapshots";
  for (const fs::path& given : {cache.model(), cache.model() / "", snapshots, snapshots / ""}) {
    EXPECT_EQ(checkpoint_folder(given), snapshots / "222") << given;
    EXPECT_EQ(model_name(given), "Qwen/Qwen3-30B-A3B") << given;
  }
  EXPECT_EQ(checkpoint_folder(snapshots / "111"), snapshots / "111") << "a snapshot is what it is";
  EXPECT_EQ(model_name(snapshots / "111"), "Qwen/Qwen3-30B-A3B");
  EXPECT_EQ(model_name(snapshots / "111" / ""), "Qwen/Qwen3-30B-A3B");
}

TEST(ModelFolder, WithoutMainIsTheOnlySnapshot) {
  const Cache cache("models--gpt2");
  cache.add_snapshot("abc");
  EXPECT_EQ(checkpoint_folder(cache.model()), cache.model() / "snapshots" / "abc");
  EXPECT_EQ(hub_name(cache.model()), "gpt2");
  cache.set_main("gone");
  EXPECT_EQ(checkpoint_folder(cache.model()), cache.model() / "snapshots" / "abc");
  cache.add_snapshot("def");
  EXPECT_THAT(error_of([&] { checkpoint_folder(cache.model()); }), HasSubstr("several snapshots"));
}

TEST(ModelFolder, OutsideOfACacheIsNamedAfterItself) {
  EXPECT_EQ(model_name("/models/tales-moe"), "tales-moe");
  EXPECT_EQ(model_name("/models/tales-moe/"), "tales-moe");
  EXPECT_EQ(model_name("tales"), "tales");
  EXPECT_EQ(hub_name("/models/tales-moe"), "");
  EXPECT_EQ(hub_name("/models/snapshots/abc"), "");
  EXPECT_EQ(checkpoint_folder("/models/tales-moe"), "/models/tales-moe");
}

TEST(ModelFolder, ThatIsNoneSaysWhatItIs) {
  TemporaryFolder folder;
  folder.write("model.gguf", "GGUF\x03 and more");
  folder.write("model.safetensors", "x");
  folder.write("notes", "x");
  const std::vector<std::pair<fs::path, std::vector<std::string>>> cases = {
      {"Qwen/Qwen3-30B-A3B", {"no such folder", "hf download Qwen/Qwen3-30B-A3B"}},
      {"https://huggingface.co/Qwen/Qwen3-30B-A3B", {"hf download Qwen/Qwen3-30B-A3B"}},
      {"https://hf.co/Qwen/Qwen3-30B-A3B/tree/main", {"hf download Qwen/Qwen3-30B-A3B"}},
      {"huggingface.co/org/name", {"hf download org/name"}},
      {"hf://org/name", {"hf download org/name"}},
      {"org/name:Q4_K_M", {"hf download org/name"}},
      {"org/name@main", {"hf download org/name"}},
      {"org/name/", {"hf download org/name"}},
      {"absent/models/name", {"found nothing"}},
      {"./org/name", {"found nothing"}},
      {"absent", {"found nothing"}},
      {folder / "absent", {"found nothing"}},
      {folder / "model.gguf", {"GGUF", "llama.cpp", "safetensors"}},
      {folder / "model.safetensors", {"one of its files", folder.path().string()}},
      {folder / "notes", {"found a file"}},
      {folder.path(), {"GGUF files", "llama.cpp"}}};
  for (const auto& [path, parts] : cases) {
    const std::string message = error_of([&, &path = path] { load_model_config(path); });
    EXPECT_THAT(message, HasSubstr(path.string() + ": "));
    for (const std::string& part : parts) EXPECT_THAT(message, HasSubstr(part));
  }
}

TEST(ModelFolder, OfModelsNamesThem) {
  TemporaryFolder folder;
  fs::create_directories(folder / "models--org--name/snapshots/111");
  fs::create_directories(folder / "tales");
  fs::create_directories(folder / "notes");
  std::ofstream(folder / "tales/config.json") << "{}";
  std::ofstream(folder / "models--org--name/snapshots/111/config.json") << "{}";
  EXPECT_THAT(error_of([&] { require_checkpoint_folder(folder.path()); }),
              AllOf(HasSubstr("a folder of such folders"), HasSubstr((folder / "tales").string()),
                    HasSubstr((folder / "models--org--name").string()), Not(HasSubstr("notes"))));
}

// What stands in the place of a file, in every file that is read.
TEST(ForeignFiles, AreToldByWhatTheyAre) {
  const std::string pointer =
      "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 3950951752\n";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {pointer, "git lfs pull"},
      {"<!DOCTYPE html>\n<html class=\"\">", "HTML page"},
      {"  \n<!doctype HTML>", "HTML page"},
      {"<html><head>", "HTML page"},
      {"<!-- saved --><html>", "HTML page"},
      {"\xEF\xBB\xBF<HEAD>", "HTML page"},
      {"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>", "said in place of the file"},
      {"Entry not found", "said in place of the file"},
      {"404: Not Found", "said in place of the file"},
      {"Access to model org/name is restricted.", "said in place of the file"},
      {"{\"error\":\"Invalid username or password.\"}", "said in place of the file"},
      {"GGUF\x03", "llama.cpp"},
      {std::string("PK\x03\x04") + "data", "zip archive"}};
  for (const auto& [text, part] : cases) {
    SCOPED_TRACE(text.substr(0, 20));
    TemporaryFolder folder;
    for (const char* name : {"config.json", "generation_config.json", "tokenizer_config.json"})
      folder.write(name, text);
    EXPECT_THAT(error_of([&] { load_model_config(folder.path()); }),
                AllOf(HasSubstr("config.json: "), HasSubstr(part)));
    EXPECT_THAT(error_of([&] { load_generation_defaults(folder.path()); }), HasSubstr(part));
    EXPECT_THAT(error_of([&] { load_tokenizer_config(folder.path()); }), HasSubstr(part));
    folder.write("model.safetensors.index.json", text);
    EXPECT_THAT(error_of([&] { Checkpoint::open(folder.path()); }), HasSubstr(part));
    folder.write("model.safetensors", text);
    EXPECT_THAT(error_of([&] { Checkpoint::open(folder.path()); }),
                AllOf(HasSubstr("model.safetensors: "), HasSubstr(part)));
  }
  for (const char* text : {"", "{}", "<", "version 2", "GGU", "<htm"})
    EXPECT_EQ(foreign_file(bytes_of(text)), "") << text;
  // Lengths of safetensors headers.
  for (const uint64_t length : {0x0280UL, 0x088B1FUL, 0x343034UL, 0x3C21UL}) {
    std::string file(8, '\0');
    std::memcpy(file.data(), &length, file.size());
    EXPECT_EQ(foreign_file(bytes_of(file + "{}")), "") << length;
  }
}

TEST(TokenizerConfigs, TellTokensAndTheTemplate) {
  const TokenizerConfig config = parse_tokenizer_config(
      "\xEF\xBB\xBF"
      R"({"tokenizer_class":"Qwen2Tokenizer","eos_token":{"content":"<|im_end|>","lstrip":false},"bos_token":null,
          "pad_token":"<|endoftext|>","unk_token":5,
          "chat_template":[{"name":"tool_use","template":"t"},{"name":"default","template":"d"}]})",
      "x");
  const TokenizerConfig expected{.tokenizer_class = "Qwen2Tokenizer",
                                 .bos_token = std::nullopt,
                                 .eos_token = "<|im_end|>",
                                 .pad_token = "<|endoftext|>",
                                 .unk_token = std::nullopt,
                                 .chat_template = "d"};
  EXPECT_EQ(config, expected);
  EXPECT_EQ(parse_tokenizer_config(R"({"chat_template":"one"})", "x").chat_template, "one");
  TemporaryFolder folder;
  EXPECT_EQ(load_tokenizer_config(folder.path()), TokenizerConfig{});
  folder.write("special_tokens_map.json", R"({"eos_token":{"content":"<|im_end|>"},"pad_token":"<pad>"})");
  folder.write("tokenizer_config.json", R"({"chat_template":"one","pad_token":"<|endoftext|>"})");
  EXPECT_EQ(load_tokenizer_config(folder.path()).eos_token, "<|im_end|>") << "as older checkpoints have it";
  EXPECT_EQ(load_tokenizer_config(folder.path()).pad_token, "<|endoftext|>");
  folder.write("chat_template.jinja", "jinja");
  EXPECT_EQ(load_tokenizer_config(folder.path()).chat_template, "jinja");
}

}  // namespace
}  // namespace chorale::io
