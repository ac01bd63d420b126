// Files as the readers of this layer need them: whole-file mappings, small texts, and a descriptor that
// closes itself. Every failure is an Error that names the path.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>

#include "io/unreadable_pages.h"

namespace chorale::io {

// Owns a POSIX file descriptor.
class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept;
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;
  ~FileDescriptor();

  int get() const { return fd_; }
  // Closes now and gives close()'s result: where the file is remote, a failed write may first show here.
  int close();

 private:
  int fd_;
};

// The text of the system's error number, for messages.
std::string system_message(int error_number);

// Whether the folder has an entry of this name, be it a symbolic link to nowhere: opening it then says what
// is wrong.
bool has_entry(const std::filesystem::path& path);

// A regular file, mapped read-only as a whole. Immutable; safe to read from many threads. Bytes that cannot
// be read are zeros, so who has read asks check_read() before they count.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  // Throws Error that names file and offset when bytes could not be read, or the file has been shortened.
  void check_read() const;
  // The same as a cheap question, for loops; does not know of a file that was shortened within its last page.
  bool could_read() const { return !unreadable_ || !unreadable_->first(); }

  // Drops the pages that hold `range`, a part of bytes(), from this process; a later access reads them again.
  void release(std::span<const std::byte> range) const;
  // Has the system read `range` from the disk, without waiting for it.
  void will_need(std::span<const std::byte> range) const;

 private:
  // Advice only: when the kernel does not take it, nothing changes.
  void advise(std::span<const std::byte> range, int advice) const;

  std::filesystem::path path_;
  FileDescriptor descriptor_;
  std::byte* data_ = nullptr;
  size_t size_ = 0;
  std::optional<UnreadablePages> unreadable_;  // absent for an empty file
};

// The contents of a regular file of at most `max_bytes`.
std::string read_text_file(const std::filesystem::path& path, uint64_t max_bytes);

// The same of a file of a checkpoint: what downloads leave in its place (foreign_file.h) is refused.
std::string read_checkpoint_text(const std::filesystem::path& path, uint64_t max_bytes);

}  // namespace chorale::io
