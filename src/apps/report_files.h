// The folder of a report, and its files.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace chorale::apps {

// Makes the folder where it is missing. To be called before anything is run, so that no result is lost to a
// folder that cannot be written. Throws Error that names the flag.
void make_report_folder(std::string_view flag, const std::filesystem::path& folder);

// To be called before anything is run, likewise. Throws Error that names the flag when the file cannot be
// written.
void check_report_file(std::string_view flag, const std::filesystem::path& file);

// Replaces the file. Throws Error that names it.
void write_report_file(const std::filesystem::path& file, const std::string& text);

// The last part of the path, also of "." or one with links.
std::string folder_name(const std::filesystem::path& path);

}  // namespace chorale::apps
