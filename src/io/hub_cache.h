// Models of the Hugging Face Hub that this machine has in its cache. Nothing is downloaded.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace chorale::io {

// "ORG/NAME" as the Hub permits it: at most 96 bytes of letters, digits, "-", "_" and "." around one slash,
// none of the two parts beginning or ending with "-" or ".", and neither "--" nor ".." in them. So it leads
// out of no folder.
bool is_hub_name(std::string_view text);

// Where huggingface_hub keeps models: HF_HUB_CACHE, else HUGGINGFACE_HUB_CACHE, else "hub" in HF_HOME, else
// "huggingface/hub" in XDG_CACHE_HOME, else ~/.cache/huggingface/hub. Variables that are empty do not count;
// "~" at the beginning of one is the home folder.
std::filesystem::path hub_cache();

// The folder models--ORG--NAME of a model in hub_cache(), whether or not it is there. The name is one.
std::filesystem::path hub_model_folder(std::string_view name);

// Of a folder models--ORG--NAME the snapshot of a revision: a branch, a tag, a commit, or the beginning of a
// commit (four digits or more) that only one snapshot has. Without one that of the main branch, else the only
// one there is. Throws Error where there is none, with the line that downloads it, and where it is not clear
// which is meant.
std::filesystem::path hub_snapshot(const std::filesystem::path& model_folder, std::string_view name,
                                   std::string_view revision);

// Throws Error: there is no folder `given`, nor the model `name`, which it seems to mean, in hub_cache().
[[noreturn]] void refuse_absent_model(std::string_view given, std::string_view name,
                                      std::string_view revision);

}  // namespace chorale::io
