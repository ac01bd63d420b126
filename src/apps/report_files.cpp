#include "apps/report_files.h"

#include <cerrno>
#include <fstream>
#include <system_error>

#include <unistd.h>

#include "base/error.h"
#include "io/file_access.h"

namespace chorale::apps {

void make_report_folder(std::string_view flag, const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw_error("{} {}: the folder cannot be made: {}", flag, folder.string(), error.message());
  if (access(folder.c_str(), W_OK) != 0) {
    throw_error("{} {}: the folder cannot be written: {}", flag, folder.string(), io::system_message(errno));
  }
}

void check_report_file(std::string_view flag, const std::filesystem::path& file) {
  std::error_code error;
  const std::filesystem::path parent = file.has_parent_path() ? file.parent_path() : ".";
  const bool exists = std::filesystem::exists(file, error);
  if (std::filesystem::is_directory(file, error)) throw_error("{} {}: it is a folder", flag, file.string());
  if (access(exists ? file.c_str() : parent.c_str(), W_OK) != 0)
    throw_error("{} {}: it cannot be written: {}", flag, file.string(), io::system_message(errno));
}

void write_report_file(const std::filesystem::path& file, const std::string& text) {
  std::ofstream out(file, std::ios::binary | std::ios::trunc);
  out << text;
  out.close();
  if (!out) throw_error("{} could not be written", file.string());
}

std::string folder_name(const std::filesystem::path& path) {
  std::error_code error;
  const std::filesystem::path full = std::filesystem::weakly_canonical(path, error);
  return error ? path.filename().string() : full.filename().string();
}

}  // namespace chorale::apps
