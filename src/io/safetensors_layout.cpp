#include "io/safetensors_layout.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <set>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/math.h"
#include "io/json_reader.h"

namespace chorale::io {
namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;

}  // namespace

uint64_t bytes_of(const TensorPlan& tensor, std::string_view file) {
  std::optional<uint64_t> size = size_of(tensor.dtype);
  for (const int64_t dimension : tensor.shape) {
    if (dimension < 0) size.reset();
    if (size) size = checked_mul(*size, static_cast<uint64_t>(dimension));
  }
  if (!size) {
    throw_error("{}: tensor {}: expected a shape whose bytes can be counted, found [{}] of {}", file,
                quote(tensor.name), fmt::join(tensor.shape, ", "), safetensors_name(tensor.dtype));
  }
  return *size;
}

std::vector<size_t> file_order(std::span<const TensorPlan> tensors) {
  std::vector<size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return size_of(tensors[a].dtype) > size_of(tensors[b].dtype); });
  return order;
}

std::string safetensors_header(std::span<const TensorPlan> tensors, std::span<const size_t> order,
                               const std::map<std::string, std::string>& metadata, std::string_view file) {
  std::set<std::string_view> names{"__metadata__"};
  uint64_t offset = 0;
  std::string text = "{";
  const auto append = [&](const std::string& name, const nlohmann::ordered_json& value) {
    if (text.size() > 1) text += ',';
    text += nlohmann::json(name).dump() + ':' + value.dump();
  };
  try {
    if (!metadata.empty()) append("__metadata__", metadata);
    for (const size_t index : order) {
      const TensorPlan& tensor = tensors[index];
      if (!names.insert(tensor.name).second) {
        throw_error("{}: tensor {}: expected a name of its own, found it taken", file, quote(tensor.name));
      }
      const std::optional<uint64_t> end = checked_add(offset, bytes_of(tensor, file));
      if (!end) throw_error("{}: expected tensors of less than 2^64 bytes, found more", file);
      append(tensor.name, {{"dtype", safetensors_name(tensor.dtype)},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, *end}}});
      offset = *end;
    }
  } catch (const nlohmann::json::exception&) {
    throw_error("{}: expected tensor names and metadata in UTF-8, found other bytes", file);
  }
  text += '}';
  text.append(round_up<size_t>(text.size(), 8) - text.size(), ' ');
  if (text.size() > kMaxHeaderBytes) {
    throw_error("{}: expected a header of at most {} bytes, found {}", file, kMaxHeaderBytes, text.size());
  }
  std::string length(8, '\0');
  for (size_t i = 0; i < length.size(); ++i) length[i] = static_cast<char>((text.size() >> (8 * i)) & 0xFF);
  return length + text;
}

}  // namespace chorale::io
