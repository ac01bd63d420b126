// Search for NaN values in stored tensors.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "io/checkpoint.h"

namespace chorale::tools {

// Whether any element is NaN; false for types that have none.
bool has_nan(const io::TensorEntry& tensor);

// The names of the tensors with a NaN, in the checkpoint's order. Reads every byte of the files once.
// Throws Error that names file and offset when one cannot be read.
std::vector<std::string> tensors_with_nan(const io::Checkpoint& checkpoint, ThreadPool& pool);

}  // namespace chorale::tools
