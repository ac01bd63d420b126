#include "base/copy.h"

#include <cstring>

namespace chorale {

void copy(const Stream& stream, const Tensor& source, const Tensor& target) {
  CHORALE_CHECK(source.dtype() == target.dtype() && source.rows() == target.rows() &&
                    source.columns() == target.columns(),
                "{} [{}, {}] to {} [{}, {}]", name_of(source.dtype()), source.rows(), source.columns(),
                name_of(target.dtype()), target.rows(), target.columns());
  for (const Tensor* tensor : {&source, &target}) {
    CHORALE_CHECK(tensor->device().is_host_memory() || tensor->device().kind() == stream.device().kind(),
                  "memory of {} on a stream of {}", tensor->device().name(), stream.device().name());
  }
  if (source.empty()) return;
  if (!stream.device().is_cpu()) return stream.queue().copy(source, target);
  const size_t element = size_of(source.dtype());
  const size_t row_bytes = static_cast<size_t>(source.columns()) * element;
  for (int64_t r = 0; r < source.rows(); ++r) {
    std::memcpy(target.bytes() + static_cast<size_t>(r * target.row_stride()) * element,
                source.bytes() + static_cast<size_t>(r * source.row_stride()) * element, row_bytes);
  }
}

}  // namespace chorale
