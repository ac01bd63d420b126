// What a backend brings for its kind of device: the ops, and how weights and the KV cache lie in its memory.
//
// The dispatch files of kernels/ check an op's arguments and call the one function of the stream's backend;
// that table lookup is the only branch by device. A backend's folder has its table in backend.cpp; one that a
// build does not have is a file that stands in for it (no_cuda.cpp).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "base/device.h"
#include "base/stream.h"
#include "base/tensor.h"
#include "kernels/attention.h"
#include "kernels/dispatch.h"
#include "kernels/expert_matmul.h"
#include "kernels/fixed_point.h"
#include "kernels/matmul.h"
#include "kernels/route.h"
#include "kernels/sample.h"
#include "kernels/weight_matrix.h"

namespace chorale {

// Where rows of elements lie in a weight matrix [N, K].
struct MatrixRegion {
  int64_t first_row = 0;     // of the outputs; of gate's, or of up's
  int64_t first_column = 0;  // of the inputs
  int half = 0;              // of a fused pair: 0 gate, 1 up
};

// Each op has the meaning that its header gives, for arguments that have been checked. Functions of layouts
// are pure arithmetic.
struct Backend {
  // ---- how memory is laid out ----
  // A rank's part of a stored matrix can be used where it lies, so that ranks of one device share what is
  // stored; else each rank stores its part.
  bool slices_in_place = true;
  bool has_quantized_weights = false;
  bool has_int8_kv_cache = false;
  // Tokens of one KV block. Attention walks the cache in blocks of this size aligned to absolute positions,
  // so it is part of the backend's numerics and not an option.
  int64_t kv_block_tokens = 0;
  int64_t (*kv_block_bytes)(const KvLayout& layout);  // of one layer, for all heads
  int64_t max_sample_places = 1;                      // rows of logits that are sampled at once, at most
  // float32 elements of scratch that attention wants for block tables of so many blocks.
  int64_t (*attention_scratch)(const KvLayout& layout, int64_t table_blocks);
  // float32 elements of scratch for the partial sums of so many rows and tokens; 0: it keeps none.
  int64_t (*partials_scratch)(const WeightLayout& down, int64_t rows, int64_t num_tokens);
  int64_t (*weight_bytes)(const WeightLayout& layout);
  // Bytes from a matrix to its canonical chunk `first` of outputs. Chunks of inputs lie within those: see
  // WeightLayout::first_k_chunk.
  int64_t (*output_chunk_offset)(const WeightLayout& layout, int64_t first);
  // Rows [R, C] of elements (element_dtype) become a part of the matrix at `target`, which was zero. Null
  // where the host packs in place.
  void (*pack_rows)(const Stream& stream, const Tensor& rows, const WeightLayout& layout, std::byte* target,
                    const MatrixRegion& region) = nullptr;

  // ---- ops ----
  void (*matmul)(const Stream& stream, const Tensor& x, std::span<const MatmulTarget> targets);
  void (*gated_matmul)(const Stream& stream, const Tensor& x, const ExpertMatrices& gate_up,
                       const ExpertRows& rows, const Tensor& out);
  void (*order_free_matmul)(const Stream& stream, const Tensor& x, const ExpertMatrices& down,
                            const ExpertRows& rows, const Tensor& sums, SumMode mode);
  void (*quantize_rows)(const Stream& stream, const Tensor& x, const WeightLayout& layout, const Tensor& out);

  void (*append_kv)(const Stream& stream, const Tensor& k, const Tensor& v, const AttentionBatch& batch,
                    const KvCacheView& cache);
  void (*attention)(const Stream& stream, const Tensor& q, const KvCacheView& cache,
                    const AttentionBatch& batch, const Tensor& scratch, const Tensor& out);
  void (*rope_table)(const Stream& stream, const Tensor& positions, const Tensor& frequencies, float scale,
                     const Tensor& cos_sin);
  void (*norm_rope)(const Stream& stream, const Tensor& x, const Tensor& weight, float eps,
                    const Tensor& cos_sin, const Tensor& out);

  void (*rms_norm)(const Stream& stream, const Tensor& x, const Tensor& weight, float eps, const Tensor& out);
  void (*embed)(const Stream& stream, const Tensor& ids, const Tensor& table, const Tensor& out);
  void (*embed_bits)(const Stream& stream, const Tensor& ids, const Tensor& table, int64_t first_row,
                     const Tensor& bits);
  void (*bits_to_rows)(const Stream& stream, const Tensor& bits, const Tensor& out);
  void (*copy_rows)(const Stream& stream, const Tensor& x, const Tensor& out);
  void (*gather_rows)(const Stream& stream, const Tensor& rows, const Tensor& x, const Tensor& out);

  void (*clear_sums)(const Stream& stream, const Tensor& sums);
  void (*add_sums)(const Stream& stream, const Tensor& sums, const Tensor& bias, const Tensor& residual);

  void (*choose_experts)(const Stream& stream, const Tensor& logits, const RouteOptions& options,
                         const ChosenExperts& chosen);
  void (*sort_by_expert)(const Stream& stream, const ChosenExperts& chosen, const ExpertRows& rows,
                         const Tensor& counts);

  void (*dispatch_rows)(const Stream& stream, const Tensor& x, const ChosenExperts& chosen,
                        const DispatchTable& table, const RowFormat& format, const SendBuffers& send);
  void (*add_returned)(const Stream& stream, const Tensor& returned, const Tensor& tokens,
                       const Tensor& counts, const Tensor& sums);
  void (*count_experts)(const Stream& stream, const Tensor& experts, const Tensor& counts);
  void (*count_tokens)(const Stream& stream, int64_t num_tokens, const Tensor& counts);

  // ---- partial sums that are added up where they are used; null where there is no such kernel ----
  PartialSums (*order_free_partials)(const Stream& stream, const Tensor& x, const ExpertMatrices& down,
                                     const ExpertRows& rows, int64_t num_tokens) = nullptr;
  void (*add_partials)(const Stream& stream, const PartialSums& partials, const Tensor& sums) = nullptr;
  void (*add_partials_norm)(const Stream& stream, const PartialSums& partials, const Tensor& bias,
                            const Tensor& residual, const NormWeight& norm, const Tensor& out) = nullptr;

  // ---- several ops in one, the same bits; null where there is no such kernel ----
  void (*add_sums_norm)(const Stream& stream, const Tensor& sums, const Tensor& bias, const Tensor& residual,
                        const NormWeight& norm, const Tensor& out) = nullptr;
  void (*route)(const Stream& stream, const Tensor& logits, const RouteOptions& options,
                const ChosenExperts& chosen, const ExpertRows& rows, const Tensor& counts) = nullptr;
  // Whether it has done it: not for every dtype.
  bool (*norm_rope_append)(const Stream& stream, const QkvRows& rows, const HeadNorms& norms,
                           const RotatedRows& rotated, const AttentionBatch& batch,
                           const KvCacheView& cache) = nullptr;

  int64_t (*sample_scratch_bytes)(int64_t vocab_size);
  void (*sample)(const Stream& stream, const SampleRows& input, const Tensor& scratch,
                 const SampledRows& output);
  void (*place_tokens)(const Stream& stream, const Tensor& sampled, const Tensor& rows,
                       const Tensor& token_ids);
  void (*clear_counts)(const Stream& stream, const Tensor& counts);
  void (*add_counts)(const Stream& stream, const Tensor& tokens, bool in_prompt, const Tensor& counts);
};

const Backend& backend_of(DeviceKind kind);
inline const Backend& backend_of(const Device& device) {
  return backend_of(device.kind());
}
inline const Backend& backend_of(const Stream& stream) {
  return backend_of(stream.device());
}

// The outputs, or inputs, of `count` canonical chunks of a matrix from `first` on: a tensor-parallel rank's
// shard. Moves no bytes.
WeightMatrix slice_chunks(const Backend& backend, const WeightMatrix& matrix, int64_t first, int64_t count);

// What a name of a device means: "cpu"; "ref" (the plain references of kernels/ref, with memory that the host
// cannot follow); "cuda" or "cuda:N"; "auto": a GPU where this process can use one, else the CPU. Throws
// Error that names the flag.
struct NamedDevice {
  DeviceKind kind = DeviceKind::cpu;
  std::optional<int> index;  // where the name has one
};
NamedDevice parse_device(std::string_view name);
DeviceKind kind_of_device(std::string_view name);
// Opens one; null for the CPU. Throws Error that says what is missing.
std::unique_ptr<DeviceDriver> open_device(DeviceKind kind, int index);
std::unique_ptr<DeviceDriver> open_device(std::string_view name);
// Devices of the kind that this process can use.
int count_devices(DeviceKind kind);

// The tables, each by its own folder.
namespace cpu {
const Backend& backend();
}
namespace ref_device {
const Backend& backend();
std::unique_ptr<DeviceDriver> open(int index);
}  // namespace ref_device
namespace cuda {
const Backend& backend();
std::unique_ptr<DeviceDriver> open(int index);
}  // namespace cuda

}  // namespace chorale
