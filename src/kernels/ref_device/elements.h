// Between tensors of the device and the plain matrices that the references compute with. For work of a queue.
#pragma once

#include <algorithm>
#include <utility>

#include "base/stream.h"
#include "kernels/ref/dense.h"
#include "kernels/ref_device/driver.h"

namespace chorale::ref_device {

template <typename Work>
void enqueue(const Stream& stream, Work&& work) {
  static_cast<WorkQueue&>(stream.queue()).enqueue(std::forward<Work>(work));
}

// bf16 or float32.
inline ref::Matrix load(const Tensor& tensor) {
  return ref::to_matrix(follow(tensor));
}

template <typename T>
ref::Dense<T> load_as(const Tensor& tensor) {
  const Tensor from = follow(tensor);
  ref::Dense<T> to(from.rows(), from.columns());
  for (int64_t r = 0; r < from.rows(); ++r)
    std::copy_n(from.row<T>(r), from.columns(), to.values.begin() + r * from.columns());
  return to;
}

// Of T elements; those of a matrix of double are rounded to float32, and then to bf16 where the tensor is.
template <typename T>
void store(const ref::Dense<T>& from, const Tensor& tensor) {
  const Tensor to = follow(tensor);
  for (int64_t r = 0; r < from.rows; ++r) {
    for (int64_t c = 0; c < from.columns; ++c) {
      if constexpr (std::is_floating_point_v<T>) {
        const auto value = static_cast<float>(from.at(r, c));
        if (to.dtype() == DType::bf16)
          to.row<bf16>(r)[c] = to_bf16(value);
        else
          to.row<float>(r)[c] = value;
      } else {
        to.row<T>(r)[c] = from.at(r, c);
      }
    }
  }
}

}  // namespace chorale::ref_device
