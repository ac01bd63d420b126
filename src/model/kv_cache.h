// The paged KV cache of all layers on one rank.
#pragma once

#include <cstdint>

#include "base/tensor.h"
#include "io/model_config.h"
#include "kernels/attention.h"
#include "kernels/backend.h"

namespace chorale::model {

// Owns [layers][B] blocks as the device's backend lays them out. On the CPU, pages are taken from the system
// when a block is first used.
class KvCache {
 public:
  // For num_kv_heads of the model's heads, those of this rank.
  KvCache(const io::ModelConfig& config, int64_t num_kv_heads, DType dtype, int64_t num_blocks, Device device)
      : layout_(layout(config, num_kv_heads, dtype)),
        layer_bytes_(num_blocks * backend_of(device).kv_block_bytes(layout_)),
        num_blocks_(num_blocks),
        buffer_(static_cast<size_t>(config.num_hidden_layers * layer_bytes_), device) {}

  static KvLayout layout(const io::ModelConfig& config, int64_t num_kv_heads, DType dtype) {
    return {.dtype = dtype, .num_kv_heads = num_kv_heads, .head_dim = config.head_dim};
  }
  // Bytes of one block in all layers.
  static int64_t block_bytes(const io::ModelConfig& config, int64_t num_kv_heads, DType dtype,
                             DeviceKind device) {
    return config.num_hidden_layers * backend_of(device).kv_block_bytes(layout(config, num_kv_heads, dtype));
  }

  KvCacheView layer(int64_t l) const {
    return {layout_, buffer_.device_data() + l * layer_bytes_, num_blocks_};
  }

  // Some heads of a block, in all layers: uint8 [layers, bytes]. What lies in it is the backend's affair, but
  // the same whichever rank has the heads.
  Tensor heads(int64_t block, int64_t first_head, int64_t num_heads) const {
    const int64_t head_bytes = layer_bytes_ / num_blocks_ / layout_.num_kv_heads;
    std::byte* const data = buffer_.device_data() + (block * layout_.num_kv_heads + first_head) * head_bytes;
    return {data,
            DType::u8,
            static_cast<int64_t>(buffer_.size()) / layer_bytes_,
            num_heads * head_bytes,
            layer_bytes_,
            buffer_.device()};
  }

 private:
  KvLayout layout_;
  int64_t layer_bytes_;
  int64_t num_blocks_;
  Buffer buffer_;
};

}  // namespace chorale::model
