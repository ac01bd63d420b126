// A folder of results that appears whole or not at all.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "io/file_access.h"

namespace chorale::io {

// A temporary folder .NAME.XXXXXXXX.tmp beside `target`, which takes the target's place on commit() and is
// removed when it never comes to that. One that a killed process left behind is removed when the next one
// for the same target is made; a lock in each tells that it is still worked on. Not thread-safe.
class OutputFolder {
 public:
  // Throws Error that begins with "--output TARGET:" before anything is created: the target exists and
  // `force` is not given; it exists and is no folder, or holds something but no config.json, which `force`
  // does not change; its parent does not exist or cannot be written; it is the folder `source` or holds it
  // (an empty path: there is no source).
  OutputFolder(const std::filesystem::path& target, bool force, const std::filesystem::path& source = {});
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;
  ~OutputFolder();

  // Where to write.
  const std::filesystem::path& path() const { return temporary_; }

  // Syncs all files, and renames the folder to the target. An old target is exchanged for it in one step, and
  // then deleted; where the file system cannot do that, it is first renamed to .NAME.XXXXXXXX.old. Throws
  // Error when the target has become one that the constructor refuses, or when the system refuses.
  void commit();

 private:
  void create();
  std::filesystem::path put_in_place(bool replace);
  std::filesystem::path rename_aside();
  [[noreturn]] void fail(int error_number, const std::string& action) const;

  std::filesystem::path given_;   // as the user wrote it, for messages
  std::filesystem::path target_;  // absolute, without a trailing slash
  std::filesystem::path source_;
  bool force_;
  std::filesystem::path temporary_;
  std::optional<FileDescriptor> lock_;
  bool committed_ = false;
};

// Throws Error that names the folder when its disk has less space than `bytes`. Where the system does not
// tell, the disk may still turn out full later.
void require_free_space(const std::filesystem::path& folder, uint64_t bytes);

}  // namespace chorale::io
