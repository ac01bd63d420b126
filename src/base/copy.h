// Moving data: within a device, and between a device and the host.
#pragma once

#include <algorithm>
#include <span>
#include <type_traits>
#include <vector>

#include "base/stream.h"
#include "base/tensor.h"

namespace chorale {

// target = source, of one shape and dtype; the padding between rows stays as it is. Each lies on the stream's
// device, on another one of its kind in this process, or on the host. Takes effect in the stream's order;
// host memory must live, and stay as it is, until the stream is synchronized. The two do not overlap.
void copy(const Stream& stream, const Tensor& source, const Tensor& target);

// A vector of the host as a tensor [1, n].
template <typename T>
Tensor host_vector(std::span<T> values) {
  const auto n = std::ssize(values);
  return Tensor(const_cast<std::remove_const_t<T>*>(values.data()), dtype_of<std::remove_const_t<T>>(), 1, n,
                n);
}

// The first elements of `target` [1, n] become `values`; returns the view of them.
template <typename T>
Tensor upload(const Stream& stream, std::span<const T> values, const Tensor& target) {
  const Tensor view = target.first_columns(std::ssize(values));
  copy(stream, host_vector(values), view);
  return view;
}

// The elements of `source`, row by row without padding. Synchronizes.
template <typename T>
std::vector<T> download(const Stream& stream, const Tensor& source) {
  std::vector<T> values(static_cast<size_t>(source.size()));
  if (values.empty()) return values;
  copy(stream, source,
       Tensor(values.data(), dtype_of<T>(), source.rows(), source.columns(), source.columns()));
  stream.synchronize();
  return values;
}

}  // namespace chorale
