#include "base/error.h"
#include "io/checkpoint.h"
#include "io/json_reader.h"
#include "io/pending_file.h"
#include "io/safetensors_layout.h"

namespace chorale::io {

void write_safetensors(const std::filesystem::path& file, std::span<const TensorToWrite> tensors,
                       const std::map<std::string, std::string>& metadata) {
  const std::string source = file.string();
  std::vector<TensorPlan> plan;
  for (const TensorToWrite& tensor : tensors) {
    plan.push_back({tensor.name, tensor.dtype, tensor.shape});
    if (const uint64_t expected = bytes_of(plan.back(), source); expected != tensor.bytes.size()) {
      throw_error("{}: tensor {}: expected {} bytes for shape [{}] of {}, found {}", source,
                  quote(tensor.name), expected, fmt::join(tensor.shape, ", "), safetensors_name(tensor.dtype),
                  tensor.bytes.size());
    }
  }
  const std::vector<size_t> order = file_order(plan);
  const std::string header = safetensors_header(plan, order, metadata, source);
  PendingFile pending(file);
  pending.write(std::as_bytes(std::span(header)));
  for (const size_t index : order) pending.write(tensors[index].bytes);
  pending.commit();
}

}  // namespace chorale::io
