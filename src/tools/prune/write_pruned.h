// Turns "these experts are kept" into a checkpoint on disk, streamed: a few MiB of a kept tensor are in
// memory at a time, whatever the size of the model.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

#include "io/checkpoint.h"
#include "io/model_config.h"
#include "tools/prune/merged_expert.h"
#include "tools/prune/selection.h"

namespace chorale::tools {

struct WritePrunedOptions {
  uint64_t max_shard_bytes = 4'000'000'000;
  // Called with the number of bytes after each piece of the weights. What it throws ends the work: poll an
  // Interruption here.
  std::function<void(uint64_t)> on_bytes;
};

// The bytes of weights that the functions below write, the total of on_bytes: with `num_experts` of the
// source's experts in each sparse layer, or with one of a new width and dtype. Throw Error when the tensors
// do not fit `config`, which is the source's.
uint64_t kept_weight_bytes(const io::Checkpoint& source, const io::ModelConfig& config, int64_t num_experts);
uint64_t merged_weight_bytes(const io::Checkpoint& source, const io::ModelConfig& config, int64_t width,
                             DType dtype);

// Writes the checkpoint into `folder`, which exists and is empty: weights in shards with an index, layer by
// layer; config.json; and a copy of the source's other files. Kept experts are numbered anew from 0 in the
// order given, and the router's rows are theirs; every tensor's bytes, and the dtype, are the source's. Of
// the source folder, weights (*.safetensors, *.bin, *.pt, *.pth, *.gguf and their indices), pruning.json,
// hidden files and subfolders are left out; symbolic links are followed. `kept` has as many experts in each
// sparse layer. Throws Error that names the file: tensors that do not fit `config`, which is the source's, or
// a disk that is full, or too small to begin with. What was written by then stays (see io::OutputFolder).
void write_kept(const io::Checkpoint& source, const io::ModelConfig& config, const KeptExperts& kept,
                const std::filesystem::path& folder, const WritePrunedOptions& options = {});

// The same with one expert in each sparse layer, made when it is its turn.
void write_merged(const io::Checkpoint& source, const io::ModelConfig& config, const MergedExperts& merged,
                  const std::filesystem::path& folder, const WritePrunedOptions& options = {});

// The text of config.json for `num_experts` experts of the given width (0: as it was): num_experts (or
// num_local_experts, as it is spelt), num_experts_per_tok, which is at most num_experts, and
// moe_intermediate_size are changed; the other fields and their order are kept. `text` has passed
// io::parse_model_config. Throws Error that names `source`.
std::string pruned_config(std::string_view text, std::string_view source, int64_t num_experts, int64_t width);

}  // namespace chorale::tools
