#include "io/output_folder.h"

#include <cerrno>
#include <cstdio>
#include <optional>
#include <random>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "base/memory_info.h"
#include "io/pending_file.h"

namespace chorale::io {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kLockName = ".chorale-lock";
constexpr std::string_view kTemporarySuffix = ".tmp";
constexpr size_t kRandomDigits = 8;
constexpr int kMaxNames = 100;

// "dir/", "dir/." and "dir" name the same folder.
fs::path without_trailing_slash(const fs::path& path) {
  const fs::path normal = fs::absolute(path).lexically_normal();
  return normal.has_filename() ? normal : normal.parent_path();
}

fs::path random_sibling(const fs::path& target, std::string_view suffix) {
  std::random_device random;
  return target.parent_path() / fmt::format(".{}.{:08x}{}", target.filename().string(), random(), suffix);
}

bool is_temporary_of(const std::string& name, const fs::path& target) {
  const std::string prefix = fmt::format(".{}.", target.filename().string());
  if (name.size() != prefix.size() + kRandomDigits + kTemporarySuffix.size()) return false;
  const std::string_view digits = std::string_view(name).substr(prefix.size(), kRandomDigits);
  return name.starts_with(prefix) && name.ends_with(kTemporarySuffix) &&
         digits.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

// The lock goes last: a removal that is cut short leaves a folder that is known as nobody's.
std::error_code remove_folder(const fs::path& folder) {
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    if (entry->path().filename() == kLockName) continue;
    fs::remove_all(entry->path(), error);
    if (error) return error;
  }
  if (error) return error;
  fs::remove(folder / kLockName, error);
  if (!error) fs::remove(folder, error);
  return error;
}

// Locks the folder as its maker does, when nobody has it locked; nothing when somebody has, or when there is
// nothing left to remove. The maker puts the lock in first, so a folder with other things in it and without
// a lock is nobody's, and an empty one may be: then its maker takes another name.
std::optional<FileDescriptor> claim(const fs::path& folder) {
  if (::rmdir(folder.c_str()) == 0) return std::nullopt;
  FileDescriptor lock(::open((folder / kLockName).c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
  if (lock.get() < 0) return errno == ENOENT ? std::optional(std::move(lock)) : std::nullopt;
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) return std::nullopt;
  return lock;
}

// What killed processes left behind; what cannot be removed stays.
void remove_abandoned(const fs::path& target) {
  std::error_code error;
  std::vector<fs::path> found;
  for (fs::directory_iterator entry(target.parent_path(), error), end; !error && entry != end;
       entry.increment(error)) {
    std::error_code ignored;
    if (is_temporary_of(entry->path().filename().string(), target) &&
        fs::is_directory(entry->symlink_status(ignored))) {
      found.push_back(entry->path());
    }
  }
  for (const fs::path& folder : found) {
    if (const auto lock = claim(folder)) remove_folder(folder);
  }
}

// Creates the lock of a new folder and holds it; nothing when another process has taken the folder away.
std::optional<FileDescriptor> lock_new(const fs::path& folder) {
  const fs::path file = folder / kLockName;
  FileDescriptor lock(::open(file.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (lock.get() < 0) return std::nullopt;
  // Where the file system has no locks, nobody can take the lock for theirs either.
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) return std::nullopt;
  struct stat held {};
  struct stat named {};
  const bool is_there = ::fstat(lock.get(), &held) == 0 && ::stat(file.c_str(), &named) == 0;
  return is_there && held.st_ino == named.st_ino ? std::optional(std::move(lock)) : std::nullopt;
}

bool is_inside(const fs::path& path, const fs::path& folder) {
  std::error_code ignored;
  for (fs::path at = fs::canonical(path, ignored); !at.empty(); at = at.parent_path()) {
    if (fs::equivalent(at, folder, ignored)) return true;
    if (at == at.parent_path()) break;
  }
  return false;
}

// Whether the target exists; throws for one that must stay as it is.
bool check_existing(const std::string& flag, const fs::path& target, const fs::path& source, bool force) {
  const auto status = fs::symlink_status(target);
  if (status.type() == fs::file_type::not_found) return false;
  if (fs::is_symlink(status)) throw_error("{}: expected a folder, found a symbolic link", flag);
  if (!fs::is_directory(status)) throw_error("{}: expected a folder, found a file", flag);
  if (!source.empty() && is_inside(source, target)) {
    throw_error("{}: expected another folder than that of the model {}, which would be lost", flag,
                source.string());
  }
  if (!force) throw_error("{}: exists already; --force replaces it", flag);
  if (!fs::is_empty(target) && !fs::is_regular_file(target / "config.json")) {
    throw_error("{}: --force replaces a checkpoint or an empty folder, found a folder without config.json",
                flag);
  }
  return true;
}

void sync_all(const fs::path& folder) {
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_symlink() || !(entry.is_regular_file() || entry.is_directory())) continue;
    const FileDescriptor file(::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC));
    if (file.get() < 0 || (::fsync(file.get()) != 0 && errno != EINVAL)) {
      throw_error("{}: cannot sync the file: {}", entry.path().string(), system_message(errno));
    }
  }
  if (const int error = sync_folder(folder); error != 0)
    throw_error("{}: cannot sync the folder: {}", folder.string(), system_message(error));
}

// The flag RENAME_EXCHANGE or RENAME_NOREPLACE is unknown to some file systems.
bool is_unsupported(int error_number) {
  return error_number == EINVAL || error_number == ENOSYS || error_number == ENOTSUP;
}

}  // namespace

OutputFolder::OutputFolder(const fs::path& target, bool force, const fs::path& source)
    : given_(target), source_(source), force_(force) {
  const std::string flag = fmt::format("--output {}", given_.string());
  if (target.empty()) throw_error("{}: expected a folder, found an empty path", flag);
  try {
    target_ = without_trailing_slash(target);
    if (!target_.has_filename()) throw_error("{}: expected a folder below the root", flag);
    check_existing(flag, target_, source_, force_);
    const fs::path parent = target_.parent_path();
    if (!fs::exists(parent)) throw_error("{}: the folder {} does not exist", flag, parent.string());
    if (!fs::is_directory(parent)) throw_error("{}: {} is not a folder", flag, parent.string());
  } catch (const fs::filesystem_error& error) {
    throw_error("{}: {}", flag, error.code().message());
  }
  remove_abandoned(target_);
  create();
}

OutputFolder::~OutputFolder() {
  if (committed_) return;
  if (const std::error_code error = remove_folder(temporary_))
    log::warn("{}: cannot remove the temporary folder: {}", temporary_.string(), error.message());
}

void OutputFolder::create() {
  for (int attempt = 0; attempt < kMaxNames; ++attempt) {
    temporary_ = random_sibling(target_, kTemporarySuffix);
    if (::mkdir(temporary_.c_str(), 0777) != 0) {
      if (errno == EEXIST) continue;
      fail(errno, fmt::format("the folder {} cannot be written", target_.parent_path().string()));
    }
    if (auto lock = lock_new(temporary_)) {
      lock_.emplace(std::move(*lock));
      return;
    }
    const int error = errno;
    if (::rmdir(temporary_.c_str()) == 0)
      fail(error, fmt::format("{} cannot be locked", temporary_.string()));
  }
  fail(EEXIST, fmt::format("the folder {} cannot be written", target_.parent_path().string()));
}

void OutputFolder::commit() {
  try {
    sync_all(temporary_);
    const bool replace =
        check_existing(fmt::format("--output {}", given_.string()), target_, source_, force_);
    const fs::path replaced = put_in_place(replace);
    committed_ = true;
    std::error_code ignored;
    fs::remove(target_ / kLockName, ignored);
    if (const int error = sync_folder(target_.parent_path()); error != 0) {
      fail(error, fmt::format("cannot sync the folder {}", target_.parent_path().string()));
    }
    if (replaced.empty()) return;
    if (const std::error_code error = remove_folder(replaced))
      log::warn("{}: cannot remove the replaced folder: {}", replaced.string(), error.message());
  } catch (const fs::filesystem_error& error) {
    throw_error("--output {}: {}", given_.string(), error.code().message());
  }
}

// Gives where what has been replaced is now, or an empty path.
fs::path OutputFolder::put_in_place(bool replace) {
  const unsigned flags = replace ? RENAME_EXCHANGE : RENAME_NOREPLACE;
  if (::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, target_.c_str(), flags) == 0) {
    return replace ? temporary_ : fs::path();
  }
  if (!is_unsupported(errno)) fail(errno, "cannot rename the temporary folder");
  if (replace) return rename_aside();
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) fail(errno, "cannot rename the temporary folder");
  return {};
}

// For a moment there is no target; were this process killed then, the old one has a name that is never
// removed as abandoned.
fs::path OutputFolder::rename_aside() {
  fs::path old = random_sibling(target_, ".old");
  if (::rename(target_.c_str(), old.c_str()) != 0) fail(errno, "cannot rename the old folder");
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) {
    const int error = errno;
    ::rename(old.c_str(), target_.c_str());
    fail(error, "cannot rename the temporary folder");
  }
  return old;
}

void OutputFolder::fail(int error_number, const std::string& action) const {
  throw_error("--output {}: {}: {}", given_.string(), action, system_message(error_number));
}

void require_free_space(const fs::path& folder, uint64_t bytes) {
  struct statvfs info {};
  if (::statvfs(folder.c_str(), &info) != 0 || info.f_blocks == 0) return;
  const uint64_t available = uint64_t{info.f_bavail} * info.f_frsize;
  if (available >= bytes) return;
  throw_error("{}: the disk is too small: expected {} free, found {}", folder.string(), format_bytes(bytes),
              format_bytes(available));
}

}  // namespace chorale::io
