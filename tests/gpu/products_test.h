// Weights and routed rows in device memory, for the tests of products.
#pragma once

#include "gpu/gpu_test.h"
#include "kernels/cuda/pack.h"
#include "kernels/cuda/products.h"
#include "unit/kernels/expert_rows.h"

namespace chorale::cuda {

// Matrices of one shape, packed one after the other, with at least `gap` bytes of NaN between two.
class GpuMatrices {
 public:
  GpuMatrices(const TiledLayout& layout, std::span<const ref::Matrix> halves,
              std::span<const ref::Matrix> ups = {}, int64_t gap = 0)
      : layout_(layout),
        count_(static_cast<int64_t>(halves.size())),
        stride_(gap == 0 ? layout.bytes() : round_up(layout.bytes() + gap, 16)),
        has_gap_(gap > 0),
        memory_(queue().index(), static_cast<size_t>(count_ * stride_)) {
    Bytes bytes(count_ * stride_, 0xFF);
    for (size_t i = 0; i < halves.size(); ++i) {
      std::byte* target = bytes.data() + static_cast<int64_t>(i) * stride_;
      pack(source_of(halves[i]), layout, target, 0);
      if (layout.fused_pair) pack(source_of(ups[i]), layout, target, 1);
    }
    queue().copy(bytes.data(), memory_.data(), memory_.size());
    queue().synchronize();
  }
  TiledMatrix matrix() const { return {layout_, memory_.data()}; }
  TiledExperts experts() const { return {layout_, memory_.data(), count_, has_gap_ ? stride_ : 0}; }

 private:
  TiledLayout layout_;
  int64_t count_, stride_;
  bool has_gap_;
  DeviceBuffer memory_;
};

class GpuRows {
 public:
  GpuRows(const std::vector<ref::ExpertRow>& rows, int64_t num_experts)
      : host_(rows, num_experts),
        offsets_(copy<int32_t>(host_.view().offsets)),
        active_(copy<int32_t>(host_.view().active)),
        tokens_(copy<int32_t>(host_.view().tokens)),
        weights_(copy<float>(host_.view().weights)) {}
  ExpertRows view() const { return {offsets_, active_, tokens_, weights_}; }

 private:
  template <typename T>
  static GpuTensor copy(const Tensor& tensor) {
    return gpu_vector(to_dense<T>(tensor).values);
  }
  TestRows host_;
  GpuTensor offsets_, active_, tokens_, weights_;
};

inline std::vector<ref::Matrix> random_matrices(Random& random, int64_t count, int64_t rows, int64_t columns,
                                                float deviation = 1) {
  std::vector<ref::Matrix> matrices;
  for (int64_t i = 0; i < count; ++i)
    matrices.push_back(random_matrix(random, rows, columns, DType::bf16, deviation));
  return matrices;
}

// One of the numbers of rows at which kernels change, or one near.
inline int64_t random_rows_count(Random& random, int64_t most) {
  const int64_t edges[] = {1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 96, 127, 129, 200, 256, 257, 400};
  while (true) {
    const int64_t rows = edges[random_int(random, 0, std::ssize(edges) - 1)];
    if (rows <= most) return rows;
  }
}

}  // namespace chorale::cuda
