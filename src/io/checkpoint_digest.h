// What tells two copies of a checkpoint apart, without reading all of it.
#pragma once

#include <filesystem>
#include <string>

#include "base/thread_pool.h"
#include "io/checkpoint.h"

namespace chorale::io {

// Of the whole file; "none" where there is no such file. Throws Error that names it when it cannot be read.
std::string digest_of_file(const std::filesystem::path& file);

// Of what the headers of the weights' files say: names, files, types, shapes, sizes and order of all tensors.
std::string digest_of_headers(const Checkpoint& checkpoint);

// Of bytes of every tensor: all of them where the checkpoint has at most 32 MiB, else pieces at even
// distances, in proportion to its size. Independent of the number of threads. Throws Error when the files
// cannot be read.
std::string digest_of_samples(const Checkpoint& checkpoint, ThreadPool& pool);

}  // namespace chorale::io
