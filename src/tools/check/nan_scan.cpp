#include "tools/check/nan_scan.h"

#include <cstdint>
#include <cstring>

#include "base/dtype.h"

namespace chorale::tools {
namespace {

// An IEEE number is NaN when, without its sign, it is above infinity. Counting in place of stopping at the
// first one lets the compiler use vector instructions.
template <typename Bits>
bool any_above(std::span<const std::byte> bytes, Bits magnitude_mask, Bits infinity) {
  constexpr size_t kBlock = 1U << 16;
  const size_t count = bytes.size() / sizeof(Bits);
  for (size_t start = 0; start < count; start += kBlock) {
    const size_t end = start + kBlock < count ? start + kBlock : count;
    size_t found = 0;
    for (size_t i = start; i < end; ++i) {
      Bits bits;
      std::memcpy(&bits, bytes.data() + i * sizeof(Bits), sizeof(Bits));
      found += (bits & magnitude_mask) > infinity ? 1 : 0;
    }
    if (found > 0) return true;
  }
  return false;
}

}  // namespace

bool has_nan(const io::TensorEntry& tensor) {
  switch (tensor.dtype) {
    case DType::bf16:
      return any_above<uint16_t>(tensor.bytes, 0x7FFF, 0x7F80);
    case DType::f16:
      return any_above<uint16_t>(tensor.bytes, 0x7FFF, 0x7C00);
    case DType::f32:
      return any_above<uint32_t>(tensor.bytes, 0x7FFFFFFF, 0x7F800000);
    case DType::f64:
      return any_above<uint64_t>(tensor.bytes, 0x7FFFFFFFFFFFFFFF, 0x7FF0000000000000);
    case DType::f8_e4m3:
      return any_above<uint8_t>(tensor.bytes, 0x7F, 0x7E);  // its largest number, there is no infinity
    default:
      return false;
  }
}

std::vector<std::string> tensors_with_nan(const io::Checkpoint& checkpoint, ThreadPool& pool) {
  const auto tensors = checkpoint.tensors();
  std::vector<uint8_t> found(tensors.size());
  pool.parallel(static_cast<int64_t>(tensors.size()), [&](int64_t index) {
    if (!checkpoint.could_read()) return;
    const auto i = static_cast<size_t>(index);
    found[i] = has_nan(tensors[i]) ? 1 : 0;
    checkpoint.release(tensors[i]);
  });
  checkpoint.check_read();
  std::vector<std::string> names;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (found[i] != 0) names.push_back(tensors[i].name);
  }
  return names;
}

}  // namespace chorale::tools
