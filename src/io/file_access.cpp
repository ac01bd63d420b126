#include "io/file_access.h"

#include <algorithm>
#include <cerrno>
#include <span>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "io/foreign_file.h"

namespace chorale::io {
namespace {

struct OpenFile {
  FileDescriptor descriptor;
  uint64_t size = 0;
};

OpenFile open_regular(const std::filesystem::path& path) {
  // Without O_NONBLOCK, opening a named pipe would wait for a writer.
  FileDescriptor descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (descriptor.get() < 0) throw_error("{}: cannot open: {}", path.string(), system_message(errno));
  struct stat info {};
  if (::fstat(descriptor.get(), &info) != 0) {
    throw_error("{}: cannot read its size: {}", path.string(), system_message(errno));
  }
  if (!S_ISREG(info.st_mode)) {
    throw_error("{}: expected a regular file, found {}", path.string(),
                S_ISDIR(info.st_mode) ? "a directory" : "something else");
  }
  return {std::move(descriptor), static_cast<uint64_t>(info.st_size)};
}

}  // namespace

FileDescriptor::FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

FileDescriptor::~FileDescriptor() {
  if (fd_ >= 0) ::close(fd_);
}

int FileDescriptor::close() {
  return ::close(std::exchange(fd_, -1));
}

std::string system_message(int error_number) {
  return std::generic_category().message(error_number);
}

bool has_entry(const std::filesystem::path& path) {
  std::error_code error;
  const auto status = std::filesystem::symlink_status(path, error);
  if (status.type() == std::filesystem::file_type::not_found) return false;
  if (error) throw_error("{}: cannot open: {}", path.string(), error.message());
  return true;
}

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path), descriptor_(-1) {
  OpenFile file = open_regular(path);
  if (file.size == 0) return;  // an empty mapping is not possible, and not needed
  void* address = ::mmap(nullptr, file.size, PROT_READ, MAP_PRIVATE, file.descriptor.get(), 0);
  if (address == MAP_FAILED) {
    throw_error("{}: cannot map {} bytes: {}", path.string(), file.size, system_message(errno));
  }
  data_ = static_cast<std::byte*>(address);
  size_ = file.size;
  descriptor_ = std::move(file.descriptor);
  unreadable_.emplace(bytes());
}

// What lies behind the end of a file in its last page reads as zeros without a fault, so its size is asked
// for, too.
void MappedFile::check_read() const {
  if (size_ == 0) return;
  const std::optional<size_t> at = unreadable_->first();
  struct stat info {};
  const bool has_size = ::fstat(descriptor_.get(), &info) == 0;
  const auto now = static_cast<size_t>(info.st_size);
  if (has_size && now < size_) {
    throw_error("{}: cannot read at byte {}: the file had {} bytes when it was opened and now has {}",
                path_.string(), at ? std::min(*at, now) : now, size_, now);
  }
  if (!at) return;
  std::byte byte{};
  const bool fails = ::pread(descriptor_.get(), &byte, 1, static_cast<off_t>(*at)) < 0;
  throw_error("{}: cannot read at byte {}: {}", path_.string(), *at,
              fails ? system_message(errno) : "the bytes could not be read a moment ago");
}

MappedFile::~MappedFile() {
  unreadable_.reset();
  if (data_ != nullptr) ::munmap(data_, size_);
}

void MappedFile::release(std::span<const std::byte> range) const {
  advise(range, MADV_DONTNEED);
}

void MappedFile::will_need(std::span<const std::byte> range) const {
  advise(range, MADV_WILLNEED);
}

void MappedFile::advise(std::span<const std::byte> range, int advice) const {
  if (range.empty()) return;
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const auto offset = static_cast<size_t>(range.data() - data_);
  CHORALE_CHECK(offset <= size_ && range.size() <= size_ - offset, "range outside of the mapping");
  const size_t first = offset / page * page;
  ::madvise(data_ + first, offset + range.size() - first, advice);
}

std::string read_text_file(const std::filesystem::path& path, uint64_t max_bytes) {
  const OpenFile file = open_regular(path);
  if (file.size > max_bytes) {
    throw_error("{}: expected at most {} bytes, found {}", path.string(), max_bytes, file.size);
  }
  std::string text(file.size, '\0');
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t got = ::read(file.descriptor.get(), text.data() + done, text.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_error("{}: cannot read at byte {}: {}", path.string(), done, system_message(errno));
    if (got == 0) break;  // shortened since its size was read
    done += static_cast<size_t>(got);
  }
  text.resize(done);
  return text;
}

std::string read_checkpoint_text(const std::filesystem::path& path, uint64_t max_bytes) {
  std::string text = read_text_file(path, max_bytes);
  refuse_foreign_file(std::as_bytes(std::span(text)), path.string());
  return text;
}

}  // namespace chorale::io
