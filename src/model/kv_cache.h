// The paged KV cache of all layers.
#pragma once

#include <cstdint>

#include "base/tensor.h"
#include "io/model_config.h"
#include "kernels/attention.h"

namespace chorale::model {

// Owns [layers][B][KV][keys, values]; see kernels/attention.h for a block. Pages are taken from the system
// when a block is first used.
class KvCache {
 public:
  KvCache(const io::ModelConfig& config, DType dtype, int64_t num_blocks)
      : layout_(layout(config, dtype)),
        num_blocks_(num_blocks),
        buffer_(static_cast<size_t>(config.num_hidden_layers * num_blocks * layout_.block_bytes())) {}

  static KvLayout layout(const io::ModelConfig& config, DType dtype) {
    return {.dtype = dtype, .num_kv_heads = config.num_key_value_heads, .head_dim = config.head_dim};
  }
  // Of one block in all layers.
  static int64_t block_bytes(const io::ModelConfig& config, DType dtype) {
    return config.num_hidden_layers * layout(config, dtype).block_bytes();
  }

  KvCacheView layer(int64_t l) const {
    return {layout_, buffer_.data() + l * num_blocks_ * layout_.block_bytes(), num_blocks_};
  }

 private:
  KvLayout layout_;
  int64_t num_blocks_;
  Buffer buffer_;
};

}  // namespace chorale::model
