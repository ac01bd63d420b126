// From what a user names as a model to the folder of its checkpoint.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace chorale::io {

// The folder itself, or, of a model's folder in the cache of Hugging Face (models--ORG--NAME), the snapshot
// that hub_snapshot() chooses. A name ORG/NAME that is no folder is looked up in that cache. Throws Error
// where the cache does not have it, with the line that downloads it, and for a revision of anything else.
std::filesystem::path checkpoint_folder(const std::filesystem::path& path, std::string_view revision = {});

// "ORG/NAME" of a folder in that cache; else the last component of the path, which may be empty.
std::string model_name(const std::filesystem::path& path);

// "ORG/NAME" of a folder in that cache; empty: it is none.
std::string hub_name(const std::filesystem::path& path);

// Throws Error that says what a path is, and what to do, where it is no folder with a checkpoint: nothing at
// all, the name of a model on the Hugging Face Hub, a GGUF file, a file of a checkpoint, a folder of GGUF
// files.
void require_checkpoint_folder(const std::filesystem::path& path);

}  // namespace chorale::io
