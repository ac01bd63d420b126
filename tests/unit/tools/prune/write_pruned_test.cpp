#include "tools/prune/write_pruned.h"

#include <csignal>
#include <fstream>
#include <random>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/interruption.h"
#include "io/output_folder.h"
#include "model/weight_loader.h"
#include "source_dir.h"
#include "unit/io/test_files.h"
#include "unit/tools/prune/small_model.h"

namespace chorale::tools {
namespace {

namespace fs = std::filesystem;
using io::Checkpoint;
using io::error_of;
using io::TemporaryFolder;
using io::TensorEntry;
using testing::ElementsAre;
using testing::ElementsAreArray;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

const fs::path kTales = source_dir() / "models/tales-moe";

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string bytes_of(const Checkpoint& checkpoint, const std::string& name) {
  const TensorEntry* tensor = checkpoint.find(name);
  EXPECT_NE(tensor, nullptr) << name;
  return tensor == nullptr ? "" : text_of(tensor->bytes);
}

std::map<std::string, std::string> files_in(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(folder))
    files[entry.path().filename().string()] = io::read_all(entry.path());
  return files;
}

KeptExperts random_kept(const io::ModelConfig& config, int64_t count, std::mt19937& random) {
  KeptExperts kept(static_cast<size_t>(config.num_hidden_layers));
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    if (!config.is_sparse_layer(layer)) continue;
    std::vector<int32_t> all(static_cast<size_t>(config.num_experts));
    std::iota(all.begin(), all.end(), 0);
    std::ranges::sample(all, std::back_inserter(kept[static_cast<size_t>(layer)]), count, random);
  }
  return kept;
}

// Every tensor of the result is the source's, bit by bit, and none is missing.
void expect_kept(const Checkpoint& source, const Checkpoint& pruned, const io::ModelConfig& config,
                 const KeptExperts& kept) {
  size_t compared = 0;
  const auto expect_same = [&](const std::string& ours, const std::string& theirs) {
    ASSERT_NE(pruned.find(ours), nullptr) << ours;
    EXPECT_EQ(pruned.find(ours)->dtype, source.find(theirs)->dtype);
    EXPECT_EQ(pruned.find(ours)->shape, source.find(theirs)->shape);
    EXPECT_TRUE(bytes_of(pruned, ours) == bytes_of(source, theirs)) << ours;
    ++compared;
  };
  for (const TensorEntry& tensor : source.tensors()) {
    const bool expert = tensor.name.find(".experts.") != std::string::npos;
    if (!expert && !tensor.name.ends_with(".mlp.gate.weight")) expect_same(tensor.name, tensor.name);
  }
  for (size_t layer = 0; layer < kept.size(); ++layer) {
    if (!config.is_sparse_layer(static_cast<int64_t>(layer))) continue;
    const std::string mlp = fmt::format("model.layers.{}.mlp.", layer);
    const std::string router = bytes_of(source, mlp + "gate.weight");
    const size_t row = router.size() / static_cast<size_t>(config.num_experts);
    std::string rows;
    for (size_t i = 0; i < kept[layer].size(); ++i) {
      for (const char* part : {"gate_proj", "up_proj", "down_proj"}) {
        expect_same(fmt::format("{}experts.{}.{}.weight", mlp, i, part),
                    fmt::format("{}experts.{}.{}.weight", mlp, kept[layer][i], part));
      }
      rows += router.substr(static_cast<size_t>(kept[layer][i]) * row, row);
    }
    EXPECT_TRUE(bytes_of(pruned, mlp + "gate.weight") == rows) << mlp;
    EXPECT_EQ(pruned.find(mlp + "gate.weight")->dtype, source.find(mlp + "gate.weight")->dtype);
    ++compared;
  }
  EXPECT_EQ(pruned.tensors().size(), compared);
}

TEST(WriteKept, KeepsEveryBitOfWhatIsKept) {
  const Checkpoint source = Checkpoint::open(kTales);
  const io::ModelConfig config = io::load_model_config(kTales);
  std::mt19937 random(5);
  for (const int64_t count : {1, 3, 12, 16}) {
    const TemporaryFolder folder;
    const KeptExperts kept = random_kept(config, count, random);
    uint64_t written = 0;
    write_kept(source, config, kept, folder.path(),
               {.max_shard_bytes = 3'000'000, .on_bytes = [&](uint64_t bytes) { written += bytes; }});
    const Checkpoint pruned = Checkpoint::open(folder.path());
    expect_kept(source, pruned, config, kept);
    EXPECT_EQ(written, pruned.total_bytes());
    EXPECT_EQ(written, kept_weight_bytes(source, config, count));

    io::ModelConfig expected = config;
    expected.num_experts = count;
    expected.num_experts_per_tok = std::min<int64_t>(config.num_experts_per_tok, count);
    EXPECT_EQ(io::load_model_config(folder.path()), expected);
    model::check_tensors(pruned, expected);
    for (const auto& entry : fs::directory_iterator(folder.path())) EXPECT_LE(entry.file_size(), 3'000'000U);
    for (const char* file :
         {"README.md", "tokenizer.json", "tokenizer_config.json", "generation_config.json"})
      EXPECT_EQ(io::read_all(folder / file), io::read_all(kTales / file));
  }
}

TEST(WriteKept, KeepsEveryBitWhateverTheTypesAndDenseLayers) {
  std::mt19937 random(6);
  constexpr std::array<DType, 3> kTypes = {DType::bf16, DType::f16, DType::f32};
  for (int round = 0; round < 16; ++round) {
    const TemporaryFolder source_folder;
    const TemporaryFolder folder;
    SmallModel model;
    model.seed = static_cast<unsigned>(round);
    model.layers = 2 + static_cast<int64_t>(random() % 11);  // so that "10" does not come before "2"
    if (round % 2 == 0) model.dense = {static_cast<int64_t>(random() % 2)};
    if (round % 3 == 0) model.experts_field = "num_local_experts";
    model.dtype = kTypes[random() % 3];
    model.router_dtype = kTypes[random() % 3];
    model.write(source_folder.path());
    const Checkpoint source = Checkpoint::open(source_folder.path());
    const io::ModelConfig config = io::load_model_config(source_folder.path());
    const KeptExperts kept = random_kept(
        config, 1 + static_cast<int64_t>(random() % static_cast<uint64_t>(model.experts)), random);
    write_kept(source, config, kept, folder.path(), {.max_shard_bytes = 2000 + random() % 30'000});
    expect_kept(source, Checkpoint::open(folder.path()), config, kept);
  }
}

TEST(WriteKept, WritesLayerByLayer) {
  const TemporaryFolder source_folder;
  const TemporaryFolder folder;
  const SmallModel model{.layers = 11, .experts = 2, .dense = {1}};
  model.write(source_folder.path());
  const io::ModelConfig config = io::load_model_config(source_folder.path());
  write_kept(Checkpoint::open(source_folder.path()), config,
             select_experts(config, {.kind = PruneMethod::Kind::first}, 2, {}), folder.path());
  const Checkpoint pruned = Checkpoint::open(folder.path());
  std::vector<std::string> names;  // of one type, for larger elements come first
  for (const TensorEntry& t : pruned.tensors()) {
    if (t.dtype == DType::bf16) names.push_back(t.name);
  }
  EXPECT_EQ(names.front(), "model.embed_tokens.weight");
  EXPECT_EQ(names.back(), "lm_head.weight");
  std::vector<int> layers;
  for (const std::string& name : names) {
    if (name.starts_with("model.layers.")) layers.push_back(std::stoi(name.substr(13)));
  }
  EXPECT_TRUE(std::ranges::is_sorted(layers));
  const auto router = std::ranges::find(names, "model.layers.10.mlp.gate.weight");
  ASSERT_EQ(names.end() - router, 1 + 2 * 3 + 1);
  EXPECT_EQ(router[1], "model.layers.10.mlp.experts.0.gate_proj.weight");
  EXPECT_EQ(router[6], "model.layers.10.mlp.experts.1.down_proj.weight");
}

TEST(WriteKept, IsDeterministic) {
  const Checkpoint source = Checkpoint::open(kTales);
  const io::ModelConfig config = io::load_model_config(kTales);
  std::mt19937 random(7);
  const KeptExperts kept = random_kept(config, 4, random);
  const TemporaryFolder first;
  const TemporaryFolder second;
  for (const auto* folder : {&first, &second})
    write_kept(source, config, kept, folder->path(), {.max_shard_bytes = 4'000'000});
  EXPECT_TRUE(files_in(first.path()) == files_in(second.path()));
  EXPECT_GT(files_in(first.path()).size(), 7U);
}

TEST(WriteKept, CopiesTheOtherFilesThatAreNotWeights) {
  const TemporaryFolder source_folder;
  const TemporaryFolder blobs;  // as Hugging Face's cache: links to files elsewhere
  const TemporaryFolder folder;
  SmallModel().write(source_folder.path());
  fs::rename(source_folder / "model.safetensors", blobs / "0123");
  fs::create_symlink(blobs / "0123", source_folder / "model.safetensors");
  const std::string template_text = std::string(3 << 20, 't') + '\0' + "end";
  blobs.write("4567", template_text);
  fs::create_symlink(blobs / "4567", source_folder / "chat_template.jinja");
  for (const char* name : {"LICENSE", "README.md", "merges.txt", "tokenizer.json", "a.ptx", "binary"})
    source_folder.write(name, name);
  for (const char* name :
       {"pytorch_model.bin", "pytorch_model.bin.index.json", "model.safetensors.index.json.bak.pt", "old.pth",
        "model.gguf", "pruning.json", ".gitattributes", ".chorale-lock"})
    source_folder.write(name, name);
  fs::create_directory(source_folder / "original");
  source_folder.write("original/file", "x");
  ::mkfifo((source_folder / "pipe").c_str(), 0600);

  const io::ModelConfig config = io::load_model_config(source_folder.path());
  write_kept(Checkpoint::open(source_folder.path()), config,
             select_experts(config, {.kind = PruneMethod::Kind::first}, 1, {}), folder.path());
  EXPECT_THAT(folder.names(),
              UnorderedElementsAre("config.json", "model.safetensors", "chat_template.jinja", "LICENSE",
                                   "README.md", "merges.txt", "tokenizer.json", "a.ptx", "binary"));
  EXPECT_FALSE(fs::is_symlink(folder / "chat_template.jinja"));
  EXPECT_TRUE(io::read_all(folder / "chat_template.jinja") == template_text);
  EXPECT_EQ(io::read_all(folder / "merges.txt"), "merges.txt");
}

TEST(WriteKept, RefusesFilesThatDoNotFit) {
  const TemporaryFolder source_folder;
  const TemporaryFolder folder;
  SmallModel().write(source_folder.path());
  const Checkpoint source = Checkpoint::open(source_folder.path());
  io::ModelConfig config = io::load_model_config(source_folder.path());
  const KeptExperts kept = select_experts(config, {.kind = PruneMethod::Kind::first}, 1, {});
  config.moe_intermediate_size += 1;
  EXPECT_THAT(error_of([&] { write_kept(source, config, kept, folder.path()); }),
              HasSubstr("expected shape"));
  EXPECT_THAT(error_of([&] { kept_weight_bytes(source, config, 1); }), HasSubstr("expected shape"));
  config.moe_intermediate_size -= 1;
  fs::create_symlink(source_folder / "gone", source_folder / "LICENSE");
  EXPECT_THAT(error_of([&] { write_kept(source, config, kept, folder.path()); }),
              HasSubstr((source_folder / "LICENSE").string() + ": cannot open: No such file"));
}

// Memory that this process maps of files, in KiB.
int64_t mapped_kib() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("RssFile:")) return std::stoll(line.substr(8));
  }
  return 0;
}

TEST(WriteKept, HoldsAFewMegabytesOfTheSource) {
  const TemporaryFolder source_folder;
  const TemporaryFolder folder;
  SmallModel model;
  model.hidden = 1 << 14;
  model.experts = 2;
  model.width = 400;
  model.layers = 1;
  model.write(source_folder.path());  // 6 matrices of 13 MB
  const Checkpoint source = Checkpoint::open(source_folder.path());
  const io::ModelConfig config = io::load_model_config(source_folder.path());
  const int64_t before = mapped_kib();
  int64_t most = 0;
  write_kept(source, config, select_experts(config, {.kind = PruneMethod::Kind::first}, 2, {}), folder.path(),
             {.on_bytes = [&](uint64_t) { most = std::max(most, mapped_kib()); }});
  EXPECT_GT(source.total_bytes(), 75'000'000U);
  EXPECT_LT(most - before, 12 << 10);
  EXPECT_GT(most, 0);
}

TEST(WriteMerged, WritesWhatIsMade) {
  const TemporaryFolder source_folder;
  std::mt19937 random(8);
  for (const DType dtype : {DType::bf16, DType::f32}) {
    const SmallModel model{.layers = 4, .dense = {2}};
    model.write(source_folder.path());
    const Checkpoint source = Checkpoint::open(source_folder.path());
    const io::ModelConfig config = io::load_model_config(source_folder.path());
    const TemporaryFolder folder;
    std::vector<int64_t> asked;
    std::map<int64_t, MergedExpert> made;
    MergedExperts merged{.width = 9, .dtype = dtype};
    merged.make = [&](int64_t layer) {
      asked.push_back(layer);
      const auto some = [&](size_t count) {
        std::vector<std::byte> bytes(count * size_of(dtype));
        for (std::byte& b : bytes) b = static_cast<std::byte>(random());
        return bytes;
      };
      return made[layer] = {some(8), some(9 * 8), some(9 * 8), some(8 * 9)};
    };
    uint64_t written = 0;
    write_merged(source, config, merged, folder.path(),
                 {.max_shard_bytes = 1500, .on_bytes = [&](uint64_t bytes) { written += bytes; }});
    EXPECT_THAT(asked, ElementsAre(0, 1, 3));
    EXPECT_EQ(written, merged_weight_bytes(source, config, 9, dtype));

    io::ModelConfig expected = config;
    expected.num_experts = expected.num_experts_per_tok = 1;
    expected.moe_intermediate_size = 9;
    EXPECT_EQ(io::load_model_config(folder.path()), expected);
    const Checkpoint pruned = Checkpoint::open(folder.path());
    model::check_tensors(pruned, expected);
    EXPECT_EQ(pruned.total_bytes(), written);
    for (const auto& [layer, expert] : made) {
      const std::string mlp = fmt::format("model.layers.{}.mlp.", layer);
      EXPECT_EQ(bytes_of(pruned, mlp + "gate.weight"), text_of(expert.router));
      EXPECT_EQ(bytes_of(pruned, mlp + "experts.0.gate_proj.weight"), text_of(expert.gate));
      EXPECT_EQ(bytes_of(pruned, mlp + "experts.0.up_proj.weight"), text_of(expert.up));
      EXPECT_EQ(bytes_of(pruned, mlp + "experts.0.down_proj.weight"), text_of(expert.down));
      EXPECT_EQ(pruned.find(mlp + "gate.weight")->dtype, dtype);
    }
    EXPECT_EQ(bytes_of(pruned, "model.layers.2.mlp.up_proj.weight"),
              bytes_of(source, "model.layers.2.mlp.up_proj.weight"));
  }
}

TEST(PrunedConfig, ChangesThreeFieldsAndNoOrder) {
  const nlohmann::ordered_json before = SmallModel().config();
  nlohmann::ordered_json expected = before;
  expected["num_experts"] = 1;
  expected["num_experts_per_tok"] = 1;
  expected["moe_intermediate_size"] = 24;
  EXPECT_EQ(pruned_config(before.dump(), "c", 1, 24), expected.dump(2) + "\n");

  expected = before;
  expected["num_experts"] = 4;
  EXPECT_EQ(pruned_config(before.dump(), "c", 4, 0), expected.dump(2) + "\n");
  EXPECT_EQ(pruned_config(before.dump(), "c", 5, 0), before.dump(2) + "\n");

  nlohmann::ordered_json both = before;
  both["num_local_experts"] = 5;
  expected = both;
  expected["num_experts"] = expected["num_local_experts"] = 3;
  EXPECT_EQ(pruned_config(both.dump(), "c", 3, 0), expected.dump(2) + "\n");
  EXPECT_THAT(error_of([] { pruned_config("{", "config.json", 1, 0); }),
              HasSubstr("config.json: invalid JSON"));
}

TEST(PrunedConfig, OfTheBundledModelDiffersInTheChangedLinesAlone) {
  std::string text = io::read_all(kTales / "config.json");
  const auto replace = [&](const std::string& from, const std::string& to) {
    ASSERT_NE(text.find(from), std::string::npos);
    text.replace(text.find(from), from.size(), to);
  };
  const std::string pruned = pruned_config(text, "c", 2, 512);
  replace("\"num_experts\": 16", "\"num_experts\": 2");
  replace("\"num_experts_per_tok\": 4", "\"num_experts_per_tok\": 2");
  replace("\"moe_intermediate_size\": 128", "\"moe_intermediate_size\": 512");
  EXPECT_EQ(pruned, text + "\n");
}

// Writes into an OutputFolder as the command does.
void prune_to(const fs::path& out, bool force, const std::function<void(uint64_t)>& on_bytes) {
  const Checkpoint source = Checkpoint::open(kTales);
  const io::ModelConfig config = io::load_model_config(kTales);
  io::OutputFolder folder(out, force, kTales);
  write_kept(source, config, select_experts(config, {.kind = PruneMethod::Kind::first}, 2, {}), folder.path(),
             {.max_shard_bytes = 2'000'000, .on_bytes = on_bytes});
  folder.commit();
}

TEST(WriteKept, LeavesNothingWhenItIsInterrupted) {
  std::mt19937 random(9);
  const TemporaryFolder parent;
  const uint64_t total = kept_weight_bytes(Checkpoint::open(kTales), io::load_model_config(kTales), 2);
  for (int round = 0; round < 8; ++round) {
    Interruption interruption;
    uint64_t left = random() % total;
    const auto poll = [&](uint64_t bytes) {
      left -= std::min(left, bytes);
      if (left == 0) interruption.request();
      interruption.throw_if_requested();
    };
    EXPECT_THROW(prune_to(parent / "out", false, poll), Interrupted);
    EXPECT_THAT(parent.names(), IsEmpty());
  }
}

// The result is whole or absent, and with --force it is the old one or the new one; what is left of a killed
// process is gone after the next run.
TEST(WriteKept, NeverShowsAHalfCheckpointWhenItIsKilled) {
  std::mt19937 random(10);
  const TemporaryFolder parent;
  const fs::path out = parent / "out";
  int killed = 0;
  for (int round = 0; round < 12; ++round) {
    const bool existed = fs::exists(out);
    const pid_t child = ::fork();
    if (child == 0) {
      prune_to(out, true, nullptr);
      ::_exit(0);
    }
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 150'000));
    ::kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    killed += WIFSIGNALED(status) ? 1 : 0;
    EXPECT_TRUE(fs::exists(out) || !existed);
    if (fs::exists(out)) model::check_tensors(Checkpoint::open(out), io::load_model_config(out));
  }
  EXPECT_GT(killed, 0);
  prune_to(out, true, nullptr);
  EXPECT_THAT(parent.names(), ElementsAre("out"));
}

}  // namespace
}  // namespace chorale::tools
