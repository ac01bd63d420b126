// A file that appears whole or not at all.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>

#include "io/file_access.h"

namespace chorale::io {

// Makes the entries of a folder last: what was created, renamed or removed in it. Some file systems cannot
// sync a folder, and then need not. Gives 0 or the system's error number.
int sync_folder(const std::filesystem::path& folder);

// A new file beside `target` that takes its place on commit(), and is removed when it never comes to that.
// Throws Error that names `target` when it cannot be created, written (a full disk), synced or renamed.
class PendingFile {
 public:
  explicit PendingFile(const std::filesystem::path& target);
  PendingFile(const PendingFile&) = delete;
  PendingFile& operator=(const PendingFile&) = delete;
  ~PendingFile();

  void write(std::span<const std::byte> bytes);
  // Syncs the file, renames it and syncs the folder.
  void commit();

 private:
  void check_target() const;
  FileDescriptor create();
  [[noreturn]] void fail(std::string_view action) const;

  std::filesystem::path target_;
  std::filesystem::path temporary_;
  FileDescriptor descriptor_;
  bool committed_ = false;
};

// A text as a file, through PendingFile.
void write_text_file(const std::filesystem::path& file, std::string_view text);

// The contents of the regular file `source`, a symbolic link followed, as the new file `target`.
void copy_file_contents(const std::filesystem::path& source, const std::filesystem::path& target);

}  // namespace chorale::io
