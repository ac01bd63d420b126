#include "io/checkpoint.h"

#include <algorithm>
#include <iterator>
#include <set>
#include <utility>

#include "base/error.h"
#include "io/file_access.h"
#include "io/foreign_file.h"
#include "io/json_reader.h"

namespace chorale::io {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kIndexName = "model.safetensors.index.json";
constexpr std::string_view kSingleName = "model.safetensors";
constexpr uint64_t kMaxIndexBytes = uint64_t{64} << 20;

// Only a plain name can be sure to stay inside the folder.
bool is_plain_file_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\0", 2)) == std::string::npos;
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

// Formats of weights that are not read.
std::string hint_of_other_weights(const fs::path& directory) {
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end; entry.increment(error)) {
    const std::string extension = entry->path().extension().string();
    if (extension == ".gguf") return "; there is a GGUF file, the format of llama.cpp, which is not read";
    if (extension == ".bin" || extension == ".pt" || extension == ".pth")
      return "; there are PyTorch files, which are not read: convert them to safetensors";
  }
  return "";
}

// Each expert's projections as tensors of their own, which are parts of the fused ones: [E, 2 * I, H] has the
// gate's rows of an expert before those of its up projection (transformers 5).
std::vector<TensorEntry> split_experts(const TensorEntry& fused) {
  constexpr std::string_view kGateUp = ".mlp.experts.gate_up_proj";
  constexpr std::string_view kDown = ".mlp.experts.down_proj";
  const std::string_view name = fused.name;
  const bool is_gate_up = name.ends_with(kGateUp);
  if (!(is_gate_up || name.ends_with(kDown)) || fused.shape.size() != 3) return {};
  const std::vector<std::string> parts =
      is_gate_up ? std::vector<std::string>{"gate_proj", "up_proj"} : std::vector<std::string>{"down_proj"};
  const int64_t num_experts = fused.shape[0];
  const auto num_parts = static_cast<int64_t>(parts.size());
  if (num_experts == 0 || fused.bytes.empty() || fused.shape[1] % num_parts != 0) return {};
  const std::string prefix(name.substr(0, name.rfind('.') + 1));
  const size_t size = fused.bytes.size() / static_cast<size_t>(num_experts * num_parts);
  std::vector<TensorEntry> out;
  for (int64_t i = 0; i < num_experts * num_parts; ++i) {
    const std::string& part = parts[static_cast<size_t>(i % num_parts)];
    out.push_back({.name = fmt::format("{}{}.{}.weight", prefix, i / num_parts, part),
                   .dtype = fused.dtype,
                   .shape = {fused.shape[1] / num_parts, fused.shape[2]},
                   .bytes = fused.bytes.subspan(static_cast<size_t>(i) * size, size),
                   .file = fused.file,
                   .is_listed = fused.is_listed});
  }
  return out;
}

SafetensorsHeader read_header(const MappedFile& file, const std::string& source) {
  SafetensorsHeader header;
  try {
    refuse_foreign_file(file.bytes(), source);
    header = parse_safetensors_header(file.bytes(), source);
  } catch (const Error&) {
    file.check_read();  // which may be why
    throw;
  }
  file.check_read();
  return header;
}

}  // namespace

Checkpoint::WeightMap Checkpoint::read_weight_map(const fs::path& index) {
  const std::string source = index.string();
  const nlohmann::json document = parse_json_object(read_checkpoint_text(index, kMaxIndexBytes), source);
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

void Checkpoint::split_fused_experts() {
  std::vector<TensorEntry> tensors;
  bool is_fused = false;
  for (TensorEntry& tensor : tensors_) {
    std::vector<TensorEntry> parts = split_experts(tensor);
    is_fused = is_fused || !parts.empty();
    if (parts.empty()) parts.push_back(std::move(tensor));
    std::move(parts.begin(), parts.end(), std::back_inserter(tensors));
  }
  if (!is_fused) {
    tensors_ = std::move(tensors);
    return;
  }
  by_name_.clear();
  for (size_t i = 0; i < tensors.size(); ++i) {
    const auto [position, inserted] = by_name_.emplace(tensors[i].name, i);
    if (!inserted) {
      throw_error("{}: tensor {}: expected once, found fused and by itself",
                  (path_ / tensors[i].file).string(), quote(tensors[i].name));
    }
  }
  tensors_ = std::move(tensors);
}

void Checkpoint::add_file(const fs::path& path, const WeightMap* index) {
  auto file = std::make_shared<const MappedFile>(path);
  SafetensorsHeader header = read_header(*file, path.string());
  const std::span<const std::byte> data = file->bytes().subspan(header.data_start);
  const std::string file_name = path.filename().string();
  for (SafetensorsHeader::Entry& t : header.tensors) {
    const auto [position, inserted] = by_name_.emplace(t.name, tensors_.size());
    if (!inserted && index == nullptr) {
      throw_error("{}: tensor {}: expected in one file only, found also in {}", path.string(), quote(t.name),
                  tensors_[position->second].file);
    }
    TensorEntry entry{std::move(t.name), t.dtype, std::move(t.shape), data.subspan(t.begin, t.end - t.begin),
                      file_name};
    entry.is_listed = index == nullptr || index->contains(entry.name);
    if (inserted) {
      tensors_.push_back(std::move(entry));
    } else if (const auto listed = index->find(entry.name);
               listed != index->end() && listed->second == file_name) {
      tensors_[position->second] = std::move(entry);
    }
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
  for (const auto& shard : shards) add_file(directory / shard.first, &weight_map);
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
  if (has_entry(directory / kSingleName)) {
    checkpoint.add_file(directory / kSingleName);
  } else if (has_entry(directory / kIndexName)) {
    checkpoint.add_indexed_files(directory / kIndexName);
  } else {
    const std::vector<fs::path> files = safetensors_files(directory);
    if (files.empty()) {
      throw_error("{}: expected {}, {} or other *.safetensors files, found none{}", directory.string(),
                  kIndexName, kSingleName, hint_of_other_weights(directory));
    }
    for (const fs::path& file : files) checkpoint.add_file(file);
  }
  checkpoint.split_fused_experts();
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

void Checkpoint::check_read() const {
  for (const auto& file : files_) file->check_read();
}

bool Checkpoint::could_read() const {
  return std::ranges::all_of(files_, [](const auto& file) { return file->could_read(); });
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
