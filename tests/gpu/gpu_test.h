// Helpers of the GPU tests: a queue, and tensors that lie on the device. Values, comparisons and the host's
// tensors are those of the CPU's kernel tests.
#pragma once

#include "kernels/cuda/runtime.h"
#include "unit/kernels/kernel_test.h"

namespace chorale::cuda {

// The tests' one queue. Without a GPU every test fails.
inline const Queue& queue() {
  static const Queue queue(0);
  return queue;
}

// A copy of a host tensor in device memory, its padding included. Device memory of its own, so that a memory
// checker sees each byte beyond it.
class GpuTensor {
 public:
  explicit GpuTensor(const TestTensor& host)
      : shape_(static_cast<const Tensor&>(host)), memory_(queue().index(), bytes_of(shape_)) {
    if (memory_.size() > 0) queue().copy(shape_.bytes(), memory_.data(), memory_.size());
    queue().synchronize();
  }
  GpuTensor(DType dtype, int64_t rows, int64_t columns) : GpuTensor(TestTensor(dtype, rows, columns)) {}
  GpuTensor(DType dtype, const ref::Matrix& values) : GpuTensor(TestTensor(dtype, values)) {}

  operator Tensor() const {
    return Tensor(memory_.data(), shape_.dtype(), shape_.rows(), shape_.columns(), shape_.row_stride());
  }
  // What the device holds once all work is done. That no padding was written is checked when it goes.
  TestTensor download() const {
    TestTensor host(shape_.dtype(), shape_.rows(), shape_.columns());
    if (memory_.size() > 0) queue().copy(memory_.data(), host->bytes(), memory_.size());
    queue().synchronize();
    return host;
  }
  ref::Matrix values() const { return download().values(); }

 private:
  static size_t bytes_of(const Tensor& tensor) {
    return static_cast<size_t>(tensor.rows() * tensor.row_stride()) * size_of(tensor.dtype());
  }

  Tensor shape_;  // of the host's tensor, which is followed in the constructor alone
  DeviceBuffer memory_;
};

template <typename T>
GpuTensor gpu_vector(const std::vector<T>& values) {
  return GpuTensor(vector_tensor(values));
}

}  // namespace chorale::cuda
