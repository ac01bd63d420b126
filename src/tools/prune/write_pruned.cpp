#include "tools/prune/write_pruned.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <tuple>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "io/file_access.h"
#include "io/json_reader.h"
#include "io/output_folder.h"
#include "io/pending_file.h"
#include "io/sharded_writer.h"
#include "model/weight_loader.h"

namespace chorale::tools {
namespace {

namespace fs = std::filesystem;
using io::TensorEntry;
using io::TensorPlan;
using io::TensorSink;

constexpr size_t kPieceBytes = size_t{4} << 20;
constexpr uint64_t kMaxConfigBytes = uint64_t{16} << 20;
constexpr std::string_view kLayers = "model.layers.";
constexpr std::array<std::string_view, 3> kProjections = {"gate_proj", "up_proj", "down_proj"};

// A tensor of the result and how to make its bytes.
struct OutputTensor {
  TensorPlan plan;
  std::function<void(const TensorSink&)> write;
};

// What precedes the layers, each layer, what follows them.
std::tuple<int, int64_t> place_of(std::string_view name) {
  if (name.starts_with(kLayers)) {
    int64_t layer = 0;
    const char* const end = name.data() + name.size();
    if (std::from_chars(name.data() + kLayers.size(), end, layer).ec == std::errc()) return {1, layer};
  }
  return {name.starts_with("model.embed_tokens.") ? 0 : 2, 0};
}

std::string router_name(int64_t layer) {
  return fmt::format("{}{}.mlp.gate.weight", kLayers, layer);
}

std::string expert_name(int64_t layer, int64_t expert, std::string_view projection) {
  return fmt::format("{}{}.mlp.experts.{}.{}.weight", kLayers, layer, expert, projection);
}

bool belongs_to_experts(std::string_view name) {
  return name.starts_with(kLayers) &&
         (name.find(".mlp.experts.") != std::string_view::npos || name.ends_with(".mlp.gate.weight"));
}

// The source's tensors beside experts and routers, layer by layer.
std::vector<const TensorEntry*> other_tensors(const io::Checkpoint& source) {
  std::vector<const TensorEntry*> tensors;
  for (const TensorEntry& tensor : source.tensors()) {
    if (!belongs_to_experts(tensor.name)) tensors.push_back(&tensor);
  }
  std::stable_sort(tensors.begin(), tensors.end(), [](const TensorEntry* a, const TensorEntry* b) {
    return place_of(a->name) < place_of(b->name);
  });
  return tensors;
}

// Piece by piece, and drops the pages of each: mapped files count as this process's memory.
void copy_bytes(const io::Checkpoint& source, const TensorEntry& tensor, std::span<const std::byte> bytes,
                const TensorSink& sink) {
  TensorEntry part{.name = tensor.name};
  while (!bytes.empty()) {
    part.bytes = bytes.first(std::min(bytes.size(), kPieceBytes));
    source.reading([&] { sink(part.bytes); });
    source.release(part);
    bytes = bytes.subspan(part.bytes.size());
  }
}

OutputTensor copy_of(const io::Checkpoint& source, const TensorEntry& tensor, std::string name) {
  return {{std::move(name), tensor.dtype, tensor.shape},
          [&](const TensorSink& sink) { copy_bytes(source, tensor, tensor.bytes, sink); }};
}

OutputTensor router_rows(const io::Checkpoint& source, const TensorEntry& router,
                         std::span<const int32_t> experts) {
  return {{router.name, router.dtype, {static_cast<int64_t>(experts.size()), router.shape[1]}},
          [&source, &router, experts](const TensorSink& sink) {
            const size_t row_bytes = router.bytes.size() / static_cast<size_t>(router.shape[0]);
            for (const int32_t e : experts) {
              copy_bytes(source, router, router.bytes.subspan(static_cast<size_t>(e) * row_bytes, row_bytes),
                         sink);
            }
          }};
}

// Adds the router and the experts of a sparse layer.
using AddExperts = std::function<void(int64_t layer, std::vector<OutputTensor>& tensors)>;

std::vector<OutputTensor> output_tensors(const io::Checkpoint& source, const io::ModelConfig& config,
                                         const AddExperts& add_experts) {
  std::vector<OutputTensor> tensors;
  int64_t next_layer = 0;
  const auto add_layers_before = [&](int64_t end) {
    for (; next_layer < end; ++next_layer) {
      if (config.is_sparse_layer(next_layer)) add_experts(next_layer, tensors);
    }
  };
  for (const TensorEntry* tensor : other_tensors(source)) {
    const auto [group, layer] = place_of(tensor->name);
    if (group == 1) add_layers_before(std::min(layer, config.num_hidden_layers));
    if (group == 2) add_layers_before(config.num_hidden_layers);
    tensors.push_back(copy_of(source, *tensor, tensor->name));
  }
  add_layers_before(config.num_hidden_layers);
  return tensors;
}

std::vector<OutputTensor> kept_tensors(const io::Checkpoint& source, const io::ModelConfig& config,
                                       const KeptExperts& kept) {
  return output_tensors(source, config, [&](int64_t layer, std::vector<OutputTensor>& tensors) {
    const std::vector<int32_t>& experts = kept[static_cast<size_t>(layer)];
    tensors.push_back(router_rows(source, *source.find(router_name(layer)), experts));
    for (size_t i = 0; i < experts.size(); ++i) {
      for (const std::string_view projection : kProjections) {
        tensors.push_back(copy_of(source, *source.find(expert_name(layer, experts[i], projection)),
                                  expert_name(layer, static_cast<int64_t>(i), projection)));
      }
    }
  });
}

// Makes each layer's expert when its first tensor is written and keeps it until the next layer's turn.
class MergedExpertMaker {
 public:
  explicit MergedExpertMaker(const MergedExperts& merged) : merged_(merged) {}

  const MergedExpert& of_layer(int64_t layer) {
    if (layer != layer_) {
      expert_ = {};  // before the next one takes its memory
      expert_ = merged_.make(layer);
      layer_ = layer;
    }
    return expert_;
  }

 private:
  const MergedExperts& merged_;
  int64_t layer_ = -1;
  MergedExpert expert_;
};

std::vector<OutputTensor> merged_tensors(const io::Checkpoint& source, const io::ModelConfig& config,
                                         const MergedExperts& merged, MergedExpertMaker& maker) {
  return output_tensors(source, config, [&](int64_t layer, std::vector<OutputTensor>& tensors) {
    const int64_t hidden = config.hidden_size;
    const auto add = [&](std::string name, std::vector<int64_t> shape,
                         std::vector<std::byte> MergedExpert::*part) {
      tensors.push_back(
          {{std::move(name), merged.dtype, std::move(shape)}, [&maker, layer, part](const TensorSink& sink) {
             for (std::span<const std::byte> left = maker.of_layer(layer).*part; !left.empty();) {
               const size_t size = std::min(left.size(), kPieceBytes);
               sink(left.first(size));
               left = left.subspan(size);
             }
           }});
    };
    add(router_name(layer), {1, hidden}, &MergedExpert::router);
    add(expert_name(layer, 0, kProjections[0]), {merged.width, hidden}, &MergedExpert::gate);
    add(expert_name(layer, 0, kProjections[1]), {merged.width, hidden}, &MergedExpert::up);
    add(expert_name(layer, 0, kProjections[2]), {hidden, merged.width}, &MergedExpert::down);
  });
}

uint64_t total_bytes(std::span<const OutputTensor> tensors) {
  uint64_t total = 0;
  for (const OutputTensor& tensor : tensors) total += io::bytes_of(tensor.plan, tensor.plan.name);
  return total;
}

void write_weights(std::span<const OutputTensor> tensors, const fs::path& folder,
                   const WritePrunedOptions& options) {
  std::vector<TensorPlan> plan;
  std::map<std::string_view, const OutputTensor*> by_name;
  for (const OutputTensor& tensor : tensors) {
    plan.push_back(tensor.plan);
    by_name.emplace(tensor.plan.name, &tensor);
  }
  const auto write = [&](const TensorPlan& tensor, const TensorSink& sink) {
    by_name.at(tensor.name)->write(sink);
  };
  io::write_sharded_checkpoint(folder, plan, write,
                               {.max_shard_bytes = options.max_shard_bytes, .on_bytes = options.on_bytes});
}

void write_config(const fs::path& source, const fs::path& folder, int64_t num_experts, int64_t width) {
  const fs::path file = source / "config.json";
  const std::string text = io::read_text_file(file, kMaxConfigBytes);
  io::write_text_file(folder / "config.json", pruned_config(text, file.string(), num_experts, width));
}

bool is_copied(const std::string& name) {
  constexpr std::array<std::string_view, 7> kWeights = {
      ".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth", ".gguf"};
  if (name.starts_with('.') || name == "config.json" || name == "pruning.json") return false;
  return std::none_of(kWeights.begin(), kWeights.end(),
                      [&](std::string_view suffix) { return name.ends_with(suffix); });
}

void copy_other_files(const fs::path& source, const fs::path& folder) {
  std::error_code error;
  for (fs::directory_iterator entry(source, error), end; !error && entry != end; entry.increment(error)) {
    const fs::path& file = entry->path();
    if (!is_copied(file.filename().string())) continue;
    std::error_code ignored;
    const fs::file_type type = fs::status(file, ignored).type();
    // What is missing is a link to nowhere: opening it says so.
    if (type == fs::file_type::regular || type == fs::file_type::not_found)
      io::copy_file_contents(file, folder / file.filename());
  }
  if (error) throw_error("{}: cannot list the folder: {}", source.string(), error.message());
}

// What takes longest comes last, so that most of what can go wrong does so at once.
void write_checkpoint(const fs::path& source, std::span<const OutputTensor> tensors, int64_t num_experts,
                      int64_t width, const fs::path& folder, const WritePrunedOptions& options) {
  io::require_free_space(folder, total_bytes(tensors));
  write_config(source, folder, num_experts, width);
  copy_other_files(source, folder);
  write_weights(tensors, folder, options);
}

}  // namespace

uint64_t kept_weight_bytes(const io::Checkpoint& source, const io::ModelConfig& config, int64_t num_experts) {
  KeptExperts kept(static_cast<size_t>(config.num_hidden_layers));
  for (std::vector<int32_t>& experts : kept) experts.resize(static_cast<size_t>(num_experts));
  model::check_tensors(source, config);
  return total_bytes(kept_tensors(source, config, kept));
}

uint64_t merged_weight_bytes(const io::Checkpoint& source, const io::ModelConfig& config, int64_t width,
                             DType dtype) {
  const MergedExperts merged{.width = width, .dtype = dtype};
  MergedExpertMaker unused(merged);
  model::check_tensors(source, config);
  return total_bytes(merged_tensors(source, config, merged, unused));
}

void write_kept(const io::Checkpoint& source, const io::ModelConfig& config, const KeptExperts& kept,
                const fs::path& folder, const WritePrunedOptions& options) {
  CHORALE_CHECK(kept.size() == static_cast<size_t>(config.num_hidden_layers));
  int64_t num_experts = 0;
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    if (!config.is_sparse_layer(layer)) continue;
    const auto count = static_cast<int64_t>(kept[static_cast<size_t>(layer)].size());
    CHORALE_CHECK(count > 0 && (num_experts == 0 || num_experts == count), "layer {}: {} experts", layer,
                  count);
    num_experts = count;
  }
  CHORALE_CHECK(num_experts > 0, "no experts");
  model::check_tensors(source, config);
  write_checkpoint(source.path(), kept_tensors(source, config, kept), num_experts, 0, folder, options);
}

void write_merged(const io::Checkpoint& source, const io::ModelConfig& config, const MergedExperts& merged,
                  const fs::path& folder, const WritePrunedOptions& options) {
  CHORALE_CHECK(merged.width > 0 && merged.make);
  model::check_tensors(source, config);
  MergedExpertMaker maker(merged);
  write_checkpoint(source.path(), merged_tensors(source, config, merged, maker), 1, merged.width, folder,
                   options);
}

std::string pruned_config(std::string_view text, std::string_view source, int64_t num_experts,
                          int64_t width) {
  nlohmann::ordered_json config;
  try {
    config = nlohmann::ordered_json::parse(text);
  } catch (const nlohmann::json::exception& error) {
    throw_error("{}: invalid JSON: {}", source, io::syntax_message(error));
  }
  const auto set = [&](const char* name, int64_t value) {
    if (config.contains(name)) config[name] = value;
  };
  set("num_experts", num_experts);
  set("num_local_experts", num_experts);
  if (const auto found = config.find("num_experts_per_tok"); found != config.end())
    *found = std::min(found->get<int64_t>(), num_experts);
  if (width > 0) set("moe_intermediate_size", width);
  return config.dump(2) + '\n';
}

}  // namespace chorale::tools
