#include "io/sharded_writer.h"

#include <limits>
#include <optional>
#include <set>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/math.h"
#include "io/json_reader.h"
#include "io/pending_file.h"

namespace chorale::io {
namespace {

namespace fs = std::filesystem;

// What an entry has in the header beside its name and dimensions, with the longest offsets; and a dimension.
constexpr uint64_t kEntryBytes = 96;
constexpr uint64_t kDimensionBytes = 21;

std::string escaped(const nlohmann::json& value) {  // bytes that are no UTF-8 are refused with the header
  return value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// No less than the file will have, for the length is only known with all offsets.
uint64_t bytes_in_file(const TensorPlan& tensor, std::string_view file) {
  const uint64_t in_header =
      kEntryBytes + escaped(tensor.name).size() + kDimensionBytes * tensor.shape.size();
  const std::optional<uint64_t> bytes = checked_add(in_header, bytes_of(tensor, file));
  if (!bytes) throw_error("{}: tensor {}: expected less than 2^64 bytes, found more", file, tensor.name);
  return *bytes;
}

using Shard = std::span<const TensorPlan>;

// As many tensors to each shard as it holds, and at least one.
std::vector<Shard> cut_into_shards(std::span<const TensorPlan> tensors, const ShardedWriteOptions& options,
                                   std::string_view file) {
  const uint64_t without_tensors = kEntryBytes + escaped(options.metadata).size();
  std::vector<Shard> shards;
  size_t begin = 0;
  uint64_t size = without_tensors;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const uint64_t bytes = bytes_in_file(tensors[i], file);
    const std::optional<uint64_t> together = checked_add(size, bytes);
    if (i > begin && (!together || *together > options.max_shard_bytes)) {
      shards.push_back(tensors.subspan(begin, i - begin));
      begin = i;
      size = without_tensors;
    }
    size = checked_add(size, bytes).value_or(std::numeric_limits<uint64_t>::max());
  }
  shards.push_back(tensors.subspan(begin));
  return shards;
}

std::string shard_name(size_t index, size_t count) {
  return count == 1 ? "model.safetensors" : fmt::format("model-{:05}-of-{:05}.safetensors", index + 1, count);
}

void check_names(std::span<const TensorPlan> tensors, const std::string& file) {
  std::set<std::string_view> names;
  for (const TensorPlan& tensor : tensors) {
    if (!names.insert(tensor.name).second) {
      throw_error("{}: tensor {}: expected a name of its own, found it taken", file, quote(tensor.name));
    }
  }
}

void write_shard(const fs::path& file, Shard shard, const TensorSource& source,
                 const ShardedWriteOptions& options) {
  const std::vector<size_t> order = file_order(shard);
  const std::string header = safetensors_header(shard, order, options.metadata, file.string());
  PendingFile pending(file);
  pending.write(std::as_bytes(std::span(header)));
  for (const size_t index : order) {
    const TensorPlan& tensor = shard[index];
    const uint64_t expected = bytes_of(tensor, file.string());
    uint64_t given = 0;
    source(tensor, [&](std::span<const std::byte> piece) {
      CHORALE_CHECK(piece.size() <= expected - given, "too many bytes for tensor {}", tensor.name);
      given += piece.size();
      pending.write(piece);
      if (options.on_bytes) options.on_bytes(piece.size());
    });
    CHORALE_CHECK(given == expected, "tensor {}: expected {} bytes, given {}", tensor.name, expected, given);
  }
  pending.commit();
}

// As Hugging Face writes it: keys sorted, two spaces.
std::string index_text(std::span<const Shard> shards, const std::string& file) {
  nlohmann::json weight_map = nlohmann::json::object();
  uint64_t total = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    for (const TensorPlan& tensor : shards[i]) {
      weight_map[tensor.name] = shard_name(i, shards.size());
      total += bytes_of(tensor, file);
    }
  }
  const nlohmann::json index = {{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}};
  return index.dump(2) + '\n';
}

}  // namespace

void write_sharded_checkpoint(const fs::path& folder, std::span<const TensorPlan> tensors,
                              const TensorSource& source, const ShardedWriteOptions& options) {
  const std::string any_file = (folder / "model.safetensors").string();  // for messages about the plan
  check_names(tensors, any_file);
  const std::vector<Shard> shards = cut_into_shards(tensors, options, any_file);
  for (size_t i = 0; i < shards.size(); ++i) {
    write_shard(folder / shard_name(i, shards.size()), shards[i], source, options);
  }
  if (shards.size() == 1) return;
  const fs::path index = folder / "model.safetensors.index.json";
  write_text_file(index, index_text(shards, index.string()));
}

}  // namespace chorale::io
