// What the kernels of matrix products take: plain values and pointers to device memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/layout.h"
#include "kernels/cuda/tensor_map.h"

namespace chorale::cuda {

inline constexpr int kMaxTargets = 4;
inline constexpr int kMaxExperts = 1024;  // of a grouped product

struct ProductTarget {
  const std::byte* weight = nullptr;  // tiles
  const float* bias = nullptr;        // [n], or null
  float* out = nullptr;
  int64_t out_stride = 0;
  int n = 0;          // outputs
  int row_tiles = 0;  // tiles of 64 stored rows
  int stored_rows = 0;
  int first_group = 0;  // groups of weight tiles before this target's
};

// y = x * W^T for rows that are all (offsets == null: one matrix) or grouped by expert.
struct ProductArgs {
  TensorMap x_map;               // of x, where rows are not gathered
  const std::byte* x = nullptr;  // rows of the weights' dtype
  int64_t x_stride = 0;          // in bytes
  int64_t k = 0;
  int num_rows = 0;            // rows of the product where it has one matrix
  int row_groups = 0;          // groups of weight tiles of all targets
  int panel = 1;               // groups that run beside each other over all rows
  int chunk_k = 0;             // inputs of a chunk
  int chunks = 1;              // of one item
  int splits = 1;              // items that share a tile's chunks
  uint64_t weight_policy = 0;  // of the second-level cache

  // Experts.
  int num_experts = 1;
  int64_t expert_bytes = 0;  // from one expert's matrix to the next
  const int32_t* offsets = nullptr;
  const int32_t* active = nullptr;  // only where no expert has more rows than a tile; else null
  const int32_t* tokens = nullptr;  // of each row
  const float* gate_weights = nullptr;
  bool gathers = false;  // x has a row per token; else a row per row of the product

  // The matrices, several of a plain product alone; the output of the others is `out`.
  ProductTarget targets[kMaxTargets];
  int num_targets = 1;
  std::byte* out = nullptr;
  int64_t out_stride = 0;    // in elements
  int n = 0;                 // outputs; of gate alone for a gated product
  float largest_digits = 0;  // partial sums below this are summed in digits (digits.cuh)
};

}  // namespace chorale::cuda
