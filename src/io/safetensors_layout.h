// How tensors lie in a safetensors file that is to be written: their order, and the header that tells it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"

namespace chorale::io {

// A tensor before its bytes are there.
struct TensorPlan {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
};

// The bytes of its elements. Throws Error that names `file` and the tensor when the shape has a negative
// dimension or cannot be counted.
uint64_t bytes_of(const TensorPlan& tensor, std::string_view file);

// The order in the file, as indices: larger elements first, else as given. Then every tensor begins at a
// multiple of its element size.
std::vector<size_t> file_order(std::span<const TensorPlan> tensors);

// Length and JSON text, padded with spaces so that the data begins at a multiple of 8. Throws Error that
// names `file`: two tensors of one name, names or metadata that are not UTF-8, a header beyond 100 MB.
std::string safetensors_header(std::span<const TensorPlan> tensors, std::span<const size_t> order,
                               const std::map<std::string, std::string>& metadata, std::string_view file);

}  // namespace chorale::io
