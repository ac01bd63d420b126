// Writes a checkpoint of any size: its tensors go to disk piece by piece and are never in memory together.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>

#include "io/safetensors_layout.h"

namespace chorale::io {

// Takes the next piece of a tensor's bytes, of any length; borrowed for the call.
using TensorSink = std::function<void(std::span<const std::byte>)>;

// Gives the sink all bytes of the tensor, in order. It is asked for the tensors in the order of the plan,
// except that within one shard those with larger elements come first.
using TensorSource = std::function<void(const TensorPlan&, const TensorSink&)>;

struct ShardedWriteOptions {
  uint64_t max_shard_bytes = 4'000'000'000;  // a file at most, its header included
  std::map<std::string, std::string> metadata{{"format", "pt"}};
  // Called with the number of bytes after each piece written. What it throws ends the writing.
  std::function<void(uint64_t)> on_bytes;
};

// Writes `folder`/model-0000i-of-0000n.safetensors and model.safetensors.index.json, or, when one file holds
// everything, model.safetensors alone, as Hugging Face does. A tensor larger than a shard gets one of its
// own. Every file is synced, and appears whole or not at all; the index comes last. Throws Error that names
// the file: tensors that safetensors_layout.h refuses, a folder that cannot be written, a full disk. What was
// whole by then stays.
void write_sharded_checkpoint(const std::filesystem::path& folder, std::span<const TensorPlan> tensors,
                              const TensorSource& source, const ShardedWriteOptions& options = {});

}  // namespace chorale::io
