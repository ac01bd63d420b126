#include "io/checkpoint.h"

#include <algorithm>
#include <set>
#include <utility>

#include "base/error.h"
#include "io/file_access.h"
#include "io/json_reader.h"

namespace chorale::io {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kIndexName = "model.safetensors.index.json";
constexpr std::string_view kSingleName = "model.safetensors";
constexpr uint64_t kMaxIndexBytes = uint64_t{64} << 20;

// Tensor name -> file name, as the index says.
using WeightMap = std::map<std::string, std::string, std::less<>>;

// Only a plain name can be sure to stay inside the folder.
bool is_plain_file_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\0", 2)) == std::string::npos;
}

WeightMap read_weight_map(const fs::path& index) {
  const std::string source = index.string();
  const nlohmann::json document = parse_json_object(read_text_file(index, kMaxIndexBytes), source);
  const auto found = document.find("weight_map");
  if (found == document.end())
    throw_error("{}: field \"weight_map\": expected an object, found none", source);
  if (!found->is_object()) {
    throw_error("{}: field \"weight_map\": expected an object, found {}", source, describe(*found));
  }
  if (found->empty())
    throw_error("{}: field \"weight_map\": expected at least one tensor, found none", source);
  WeightMap weight_map;
  for (const auto& [tensor, file] : found->items()) {
    if (!file.is_string()) {
      throw_error("{}: field \"weight_map\": tensor {}: expected a file name, found {}", source,
                  quote(tensor), describe(file));
    }
    const auto& name = file.get_ref<const std::string&>();
    if (!is_plain_file_name(name)) {
      throw_error(
          "{}: field \"weight_map\": tensor {}: expected the plain name of a file in the same folder, found "
          "{}",
          source, quote(tensor), quote(name));
    }
    weight_map.emplace(tensor, name);
  }
  return weight_map;
}

std::vector<fs::path> safetensors_files(const fs::path& directory) {
  std::vector<fs::path> files;
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (name.ends_with(".safetensors") && !name.starts_with('.')) files.push_back(entry->path());
  }
  if (error) throw_error("{}: cannot list the folder: {}", directory.string(), error.message());
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

void Checkpoint::add_file(const fs::path& path) {
  auto file = std::make_shared<const MappedFile>(path);
  SafetensorsHeader header = parse_safetensors_header(file->bytes(), path.string());
  const std::span<const std::byte> data = file->bytes().subspan(header.data_start);
  const std::string file_name = path.filename().string();
  for (SafetensorsHeader::Entry& t : header.tensors) {
    const auto [position, inserted] = by_name_.emplace(t.name, tensors_.size());
    if (!inserted) {
      throw_error("{}: tensor {}: expected in one file only, found also in {}", path.string(), quote(t.name),
                  tensors_[position->second].file);
    }
    tensors_.push_back(
        {std::move(t.name), t.dtype, std::move(t.shape), data.subspan(t.begin, t.end - t.begin), file_name});
  }
  files_.push_back(std::move(file));
}

void Checkpoint::add_indexed_files(const fs::path& index) {
  const WeightMap weight_map = read_weight_map(index);
  std::map<std::string, std::string> shards;  // file name -> a tensor that the index has there
  for (const auto& [tensor, file] : weight_map) shards.emplace(file, tensor);
  const fs::path directory = index.parent_path();
  for (const auto& [file, tensor] : shards) {
    if (!has_entry(directory / file)) {
      throw_error("{}: field \"weight_map\": tensor {}: expected the file {} in the same folder, found none",
                  index.string(), quote(tensor), quote(file));
    }
  }
  for (const auto& shard : shards) add_file(directory / shard.first);

  for (const TensorEntry& t : tensors_) {
    const auto indexed = weight_map.find(t.name);
    if (indexed == weight_map.end() || indexed->second != t.file) {
      throw_error("{}: tensor {}: expected in {} as {} says, found in {}", (directory / t.file).string(),
                  quote(t.name), indexed == weight_map.end() ? "no file" : quote(indexed->second), kIndexName,
                  t.file);
    }
  }
  for (const auto& [tensor, file] : weight_map) {
    if (find(tensor) == nullptr) {
      throw_error("{}: tensor {}: expected in {}, found in no file", index.string(), quote(tensor),
                  quote(file));
    }
  }
}

Checkpoint Checkpoint::open(const fs::path& directory) {
  std::error_code error;
  if (!fs::is_directory(directory, error)) {
    throw_error("{}: expected a folder with a checkpoint, found {}", directory.string(),
                fs::exists(directory, error) ? "a file" : "nothing");
  }
  Checkpoint checkpoint;
  checkpoint.path_ = directory;
  if (has_entry(directory / kIndexName)) {
    checkpoint.add_indexed_files(directory / kIndexName);
  } else if (has_entry(directory / kSingleName)) {
    checkpoint.add_file(directory / kSingleName);
  } else {
    const std::vector<fs::path> files = safetensors_files(directory);
    if (files.empty()) {
      throw_error("{}: expected {}, {} or other *.safetensors files, found none", directory.string(),
                  kIndexName, kSingleName);
    }
    for (const fs::path& file : files) checkpoint.add_file(file);
  }
  return checkpoint;
}

Checkpoint Checkpoint::open_file(const fs::path& file) {
  Checkpoint checkpoint;
  checkpoint.path_ = file;
  checkpoint.add_file(file);
  return checkpoint;
}

const TensorEntry* Checkpoint::find(std::string_view name) const {
  const auto position = by_name_.find(name);
  return position == by_name_.end() ? nullptr : &tensors_[position->second];
}

const TensorEntry& Checkpoint::at(std::string_view name) const {
  const TensorEntry* tensor = find(name);
  CHORALE_CHECK(tensor != nullptr, "no tensor {}", name);
  return *tensor;
}

uint64_t Checkpoint::total_bytes() const {
  uint64_t total = 0;
  for (const TensorEntry& t : tensors_) total += t.bytes.size();
  return total;
}

const MappedFile* Checkpoint::file_of(const TensorEntry& tensor) const {
  const auto holds = [&](const std::shared_ptr<const MappedFile>& file) {
    const std::span<const std::byte> bytes = file->bytes();
    return !tensor.bytes.empty() && std::less_equal<>()(bytes.data(), tensor.bytes.data()) &&
           std::less<>()(tensor.bytes.data(), bytes.data() + bytes.size());
  };
  const auto file = std::find_if(files_.begin(), files_.end(), holds);
  return file != files_.end() ? file->get() : nullptr;
}

void Checkpoint::will_need(const TensorEntry& tensor) const {
  if (const MappedFile* file = file_of(tensor)) file->will_need(tensor.bytes);
}

void Checkpoint::release(const TensorEntry& tensor) const {
  if (const MappedFile* file = file_of(tensor)) file->release(tensor.bytes);
}

}  // namespace chorale::io
