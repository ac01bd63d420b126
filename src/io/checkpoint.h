// A checkpoint on disk: one or many safetensors files, memory-mapped, seen as one table of named tensors.
//
// Format: https://huggingface.co/docs/safetensors (8-byte little-endian header length, JSON header, data).
// All structural checks are made when a file is opened, before any tensor is read; violations throw Error
// that names the file and the tensor or field, the expected and the actual value.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "base/error.h"

namespace chorale::io {

// A tensor inside a mapped file. Valid while the Checkpoint that gave it lives. The bytes are not aligned to
// more than the format guarantees; read elements with memcpy.
struct TensorEntry {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
  std::string file;  // file name within the directory, for messages
  bool is_listed =
      true;  // false: there is an index, and it does not know this tensor, which may be of no use
};

// One parsed header: where each tensor lies relative to the data section.
struct SafetensorsHeader {
  struct Entry {
    std::string name;
    DType dtype = DType::f32;
    std::vector<int64_t> shape;
    uint64_t begin = 0;  // bytes from the start of the data section
    uint64_t end = 0;
  };
  std::vector<Entry> tensors;  // in the order of their offsets
  std::map<std::string, std::string> metadata;
  uint64_t data_start = 0;  // bytes from the start of the file
};

// Parses and validates the header of a safetensors file whose whole contents are `file_bytes`. Refuses: an
// empty or truncated file, a header longer than the file or than 100 MB, invalid JSON or nesting deeper than
// the format has, duplicate keys, unknown fields and dtypes, more than 64 dimensions, negative or overflowing
// shapes, a span unequal to shape times dtype, offsets that overlap or leave gaps, and trailing bytes. Throws
// Error whose message begins with `source`; never reads outside `file_bytes`.
SafetensorsHeader parse_safetensors_header(std::span<const std::byte> file_bytes, std::string_view source);

class MappedFile;

// Immutable after construction; safe to read from many threads. Bytes that cannot be read, as when a file is
// shortened or its disk fails, are zeros: see check_read().
class Checkpoint {
 public:
  // Opens `directory`/model.safetensors, else the shards of model.safetensors.index.json, or all
  // *.safetensors files when there is no index. As in transformers the index tells the files, which it may
  // only name inside the directory, and these tell the tensors: one that it does not list is there
  // nevertheless, and of one that stands in two shards the listed one counts. One that it lists and no shard
  // has is an error. Experts that are fused into one tensor of a layer appear as tensors of their own.
  static Checkpoint open(const std::filesystem::path& directory);

  // Opens a single safetensors file.
  static Checkpoint open_file(const std::filesystem::path& file);

  // nullptr when there is no such tensor.
  const TensorEntry* find(std::string_view name) const;
  // The tensor of that name; that there is none is a programmer's fault.
  const TensorEntry& at(std::string_view name) const;
  // In the order of files and offsets.
  std::span<const TensorEntry> tensors() const { return tensors_; }
  uint64_t total_bytes() const;
  const std::filesystem::path& path() const { return path_; }

  // Throws Error that names file and offset when bytes of the files could not be read. For whoever has read
  // tensors, before what came of it counts.
  void check_read() const;
  // The same as a cheap question, to end long work early.
  bool could_read() const;
  // Reads tensors: an Error of `read` gives way to that of a file that could not be read, which may have been
  // its cause.
  template <typename Read>
  void reading(const Read& read) const {
    try {
      read();
    } catch (const Error&) {
      check_read();
      throw;
    }
    check_read();
  }

  // Tells the kernel that the bytes of this tensor will be needed soon (reads them from the disk).
  void will_need(const TensorEntry& tensor) const;
  // Tells the kernel that the bytes of this tensor will not be needed again (drops its pages).
  void release(const TensorEntry& tensor) const;

 private:
  const MappedFile* file_of(const TensorEntry& tensor) const;
  // Tensor name -> file name, as the index says.
  using WeightMap = std::map<std::string, std::string, std::less<>>;
  static WeightMap read_weight_map(const std::filesystem::path& index);
  void add_file(const std::filesystem::path& path, const WeightMap* index = nullptr);
  void split_fused_experts();
  void add_indexed_files(const std::filesystem::path& index);

  std::filesystem::path path_;
  std::vector<std::shared_ptr<const MappedFile>> files_;
  std::vector<TensorEntry> tensors_;
  std::map<std::string, size_t, std::less<>> by_name_;
};

// A tensor to be written: the bytes are borrowed until write_safetensors returns.
struct TensorToWrite {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
};

// Writes one safetensors file: to a temporary name beside it, synced, then renamed, so that it appears whole
// or not at all. Tensors with larger elements come first, else in the given order, which aligns each to its
// element size. Throws Error when the disk is full or the folder cannot be written, and leaves nothing
// behind; also when a tensor's bytes do not fit its shape, or two have one name.
void write_safetensors(const std::filesystem::path& file, std::span<const TensorToWrite> tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace chorale::io
