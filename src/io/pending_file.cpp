#include "io/pending_file.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <random>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include "base/error.h"

namespace chorale::io {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxBytesPerWrite = size_t{1} << 30;  // Linux writes at most 2 GiB at once
constexpr int kMaxNames = 100;
constexpr size_t kCopyBytes = size_t{1} << 20;

}  // namespace

int sync_folder(const fs::path& folder) {
  const FileDescriptor descriptor(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (descriptor.get() < 0) return errno;
  return ::fsync(descriptor.get()) != 0 && errno != EINVAL ? errno : 0;
}

PendingFile::PendingFile(const fs::path& target) : target_(target), descriptor_(create()) {}

// A rename replaces whatever has the name, a device too when root does it.
void PendingFile::check_target() const {
  std::error_code error;
  const fs::file_type type = fs::status(target_, error).type();
  if (type == fs::file_type::regular || type == fs::file_type::not_found || type == fs::file_type::none)
    return;
  throw_error("{}: expected a file or nothing, found {}", target_.string(),
              type == fs::file_type::directory ? "a folder" : "a device or the like");
}

PendingFile::~PendingFile() {
  if (!committed_) ::unlink(temporary_.c_str());
}

FileDescriptor PendingFile::create() {
  check_target();
  std::random_device random;
  for (int attempt = 0; attempt < kMaxNames; ++attempt) {
    temporary_ = target_.parent_path() / fmt::format(".{}.{:08x}.tmp", target_.filename().string(), random());
    const int fd = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd >= 0) return FileDescriptor(fd);
    if (errno != EEXIST) break;
  }
  fail("create");
}

void PendingFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t done = ::write(descriptor_.get(), bytes.data(), std::min(bytes.size(), kMaxBytesPerWrite));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) fail("write");
    bytes = bytes.subspan(static_cast<size_t>(done));
  }
}

void PendingFile::commit() {
  if (::fsync(descriptor_.get()) != 0) fail("sync");
  if (descriptor_.close() != 0) fail("close");
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) fail("rename to");
  committed_ = true;
  // Makes the rename itself last.
  if (const int error = sync_folder(target_.has_parent_path() ? target_.parent_path() : "."); error != 0) {
    errno = error;
    fail("sync the folder of");
  }
}

void PendingFile::fail(std::string_view action) const {
  throw_error("{}: cannot {} the file: {}", target_.string(), action, system_message(errno));
}

void write_text_file(const fs::path& file, std::string_view text) {
  PendingFile pending(file);
  pending.write(std::as_bytes(std::span(text)));
  pending.commit();
}

void copy_file_contents(const fs::path& source, const fs::path& target) {
  const FileDescriptor from(::open(source.c_str(), O_RDONLY | O_CLOEXEC));
  if (from.get() < 0) throw_error("{}: cannot open: {}", source.string(), system_message(errno));
  PendingFile pending(target);
  std::vector<std::byte> piece(kCopyBytes);
  while (true) {
    const ssize_t got = ::read(from.get(), piece.data(), piece.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_error("{}: cannot read: {}", source.string(), system_message(errno));
    if (got == 0) break;
    pending.write(std::span(piece).first(static_cast<size_t>(got)));
  }
  pending.commit();
}

}  // namespace chorale::io
