#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <optional>
#include <random>
#include <set>

#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/math.h"
#include "io/checkpoint.h"
#include "io/file_access.h"
#include "io/json_reader.h"

namespace chorale::io {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr size_t kMaxBytesPerWrite = size_t{1} << 30;  // Linux writes at most 2 GiB at once

void check_tensor(const TensorToWrite& tensor, const std::string& file) {
  std::optional<uint64_t> size = size_of(tensor.dtype);
  for (const int64_t dimension : tensor.shape) {
    if (dimension < 0) size.reset();
    if (size) size = checked_mul(*size, static_cast<uint64_t>(dimension));
  }
  if (!size || *size != tensor.bytes.size()) {
    throw_error("{}: tensor {}: expected {} bytes for shape [{}] of {}, found {}", file, quote(tensor.name),
                size ? fmt::format("{}", *size) : "a countable number of", fmt::join(tensor.shape, ", "),
                safetensors_name(tensor.dtype), tensor.bytes.size());
  }
}

// Larger elements first: then every tensor begins at a multiple of its element size.
std::vector<const TensorToWrite*> in_file_order(std::span<const TensorToWrite> tensors) {
  std::vector<const TensorToWrite*> order;
  for (const TensorToWrite& tensor : tensors) order.push_back(&tensor);
  std::stable_sort(order.begin(), order.end(), [](const TensorToWrite* a, const TensorToWrite* b) {
    return size_of(a->dtype) > size_of(b->dtype);
  });
  return order;
}

// The length and the JSON text, padded with spaces so that the data begins at a multiple of 8.
std::string header_of(std::span<const TensorToWrite* const> tensors,
                      const std::map<std::string, std::string>& metadata, const std::string& file) {
  std::set<std::string_view> names{"__metadata__"};
  uint64_t offset = 0;
  std::string text = "{";
  const auto append = [&](const std::string& name, const nlohmann::ordered_json& value) {
    if (text.size() > 1) text += ',';
    text += nlohmann::json(name).dump() + ':' + value.dump();
  };
  try {
    if (!metadata.empty()) append("__metadata__", metadata);
    for (const TensorToWrite* tensor : tensors) {
      if (!names.insert(tensor->name).second) {
        throw_error("{}: tensor {}: expected a name of its own, found it taken", file, quote(tensor->name));
      }
      const uint64_t end = offset + tensor->bytes.size();
      append(tensor->name, {{"dtype", safetensors_name(tensor->dtype)},
                            {"shape", tensor->shape},
                            {"data_offsets", {offset, end}}});
      offset = end;
    }
  } catch (const nlohmann::json::exception&) {
    throw_error("{}: expected tensor names and metadata in UTF-8, found other bytes", file);
  }
  text += '}';
  text.append(round_up<size_t>(text.size(), 8) - text.size(), ' ');
  if (text.size() > kMaxHeaderBytes) {
    throw_error("{}: expected a header of at most {} bytes, found {}", file, kMaxHeaderBytes, text.size());
  }
  std::string length(8, '\0');
  for (size_t i = 0; i < length.size(); ++i) length[i] = static_cast<char>((text.size() >> (8 * i)) & 0xFF);
  return length + text;
}

// A new file beside `target` that takes its place on commit(), and is removed when it never comes to that.
class PendingFile {
 public:
  explicit PendingFile(const fs::path& target) : target_(target), descriptor_(create()) {}
  PendingFile(const PendingFile&) = delete;
  PendingFile& operator=(const PendingFile&) = delete;
  ~PendingFile() {
    if (!committed_) ::unlink(temporary_.c_str());
  }

  void write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t done =
          ::write(descriptor_.get(), bytes.data(), std::min(bytes.size(), kMaxBytesPerWrite));
      if (done < 0 && errno == EINTR) continue;
      if (done < 0) fail("write");
      bytes = bytes.subspan(static_cast<size_t>(done));
    }
  }

  void commit() {
    if (::fsync(descriptor_.get()) != 0) fail("sync");
    if (descriptor_.close() != 0) fail("close");
    if (::rename(temporary_.c_str(), target_.c_str()) != 0) fail("rename to");
    committed_ = true;
    sync_folder();
  }

 private:
  FileDescriptor create() {
    std::random_device random;
    for (int attempt = 0; attempt < 100; ++attempt) {
      temporary_ =
          target_.parent_path() / fmt::format(".{}.{:08x}.tmp", target_.filename().string(), random());
      const int fd = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
      if (fd >= 0) return FileDescriptor(fd);
      if (errno != EEXIST) break;
    }
    fail("create");
  }

  // Makes the rename itself last. Some file systems cannot sync a folder, and then need not.
  void sync_folder() const {
    const fs::path folder = target_.has_parent_path() ? target_.parent_path() : fs::path(".");
    const FileDescriptor descriptor(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (descriptor.get() < 0 || (::fsync(descriptor.get()) != 0 && errno != EINVAL))
      fail("sync the folder of");
  }

  [[noreturn]] void fail(std::string_view action) const {
    throw_error("{}: cannot {} the file: {}", target_.string(), action, system_message(errno));
  }

  fs::path target_;
  fs::path temporary_;
  FileDescriptor descriptor_;
  bool committed_ = false;
};

}  // namespace

void write_safetensors(const fs::path& file, std::span<const TensorToWrite> tensors,
                       const std::map<std::string, std::string>& metadata) {
  for (const TensorToWrite& tensor : tensors) check_tensor(tensor, file.string());
  const std::vector<const TensorToWrite*> order = in_file_order(tensors);
  const std::string header = header_of(order, metadata, file.string());
  PendingFile pending(file);
  pending.write(std::as_bytes(std::span(header)));
  for (const TensorToWrite* tensor : order) pending.write(tensor->bytes);
  pending.commit();
}

}  // namespace chorale::io
