// What the GPU's light ops take for the shapes of Qwen3-30B-A3B: norms, rotation with the KV cache's writing,
// routing, rows. Each figure is the median of several replays of a graph of many calls in a row, so that it
// holds a kernel's boundary too; the first line of the table is a kernel that does nothing. Beside it stands
// what the op's bytes would take at 4.28 TB/s: at few rows all lies in the second-level cache, and the
// boundary is what counts.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/kv_cache.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.h"
#include "kernels/cuda/sample.h"

namespace chorale::cuda {
namespace {

constexpr int64_t kH = 2048, kHeads = 32, kKvHeads = 4, kD = 128, kE = 128, kTopK = 8, kV = 151'936;
constexpr double kBandwidth = 4.28e12;  // bytes a second that a copy moves on this kind of GPU
constexpr int kCalls = 50;              // of a graph
constexpr int kReplays = 15;

__global__ void empty_kernel() {
  wait_for_previous();
  allow_next();
}
__global__ void random_floats(float* out, size_t count, uint64_t seed) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count;
       i += size_t{gridDim.x} * blockDim.x) {
    uint64_t z = (i + seed * count + 1) * 0x9E3779B97F4A7C15ULL;
    z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27U)) * 0x94D049BB133111EBULL;
    out[i] = static_cast<float>(z >> 40U) * 0x1p-23F - 1.0F;
  }
}

// Like the logits of a model: nearly normal, with a deviation of 3.
__global__ void random_logits(float* out, size_t count, uint64_t seed) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count;
       i += size_t{gridDim.x} * blockDim.x) {
    uint64_t z = (i + seed * count + 1) * 0x9E3779B97F4A7C15ULL;
    z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27U)) * 0x94D049BB133111EBULL;
    z ^= z >> 31U;
    float sum = 0;
    for (int part = 0; part < 4; ++part)
      sum += static_cast<float>(z >> (16 * part) & 0xFFFFU) * 0x1p-15F - 1.0F;
    out[i] = sum * 2.6F;
  }
}

class Bench {
 public:
  explicit Bench(int64_t tokens) : queue_(0), tokens_(tokens) {}

  // Device memory that lives as long as the bench.
  Tensor tensor(DType dtype, int64_t rows, int64_t columns) {
    const int64_t per_line = 64 / static_cast<int64_t>(size_of(dtype));
    const int64_t stride = (columns + per_line - 1) / per_line * per_line;
    memory_.emplace_back(0, static_cast<size_t>(rows * stride) * size_of(dtype));
    return Tensor(memory_.back().data(), dtype, rows, columns, stride);
  }
  Tensor random(int64_t rows, int64_t columns) {
    const Tensor t = tensor(DType::f32, rows, columns);
    random_floats<<<256, 256, 0, queue_.stream()>>>(
        t.data<float>(), static_cast<size_t>(rows * t.row_stride()), memory_.size());
    check(cudaGetLastError(), "random_floats", 0);
    return t;
  }
  Tensor integers(const std::vector<int32_t>& values) {
    const Tensor t = tensor(DType::i32, 1, std::ssize(values));
    queue_.copy(values.data(), t.bytes(), values.size() * sizeof(int32_t));
    queue_.synchronize();
    return t;
  }

  void measure(const char* name, double bytes, const std::function<void()>& op) {
    op();
    queue_.synchronize();
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t replay = nullptr;
    check(cudaStreamBeginCapture(queue_.stream(), cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture",
          0);
    for (int i = 0; i < kCalls; ++i) op();
    check(cudaStreamEndCapture(queue_.stream(), &graph), "cudaStreamEndCapture", 0);
    check(cudaGraphInstantiate(&replay, graph, 0), "cudaGraphInstantiate", 0);
    cudaEvent_t begin = nullptr;
    cudaEvent_t end = nullptr;
    check(cudaEventCreate(&begin), "cudaEventCreate", 0);
    check(cudaEventCreate(&end), "cudaEventCreate", 0);
    std::vector<float> times;
    for (int i = 0; i < kReplays + 2; ++i) {
      check(cudaEventRecord(begin, queue_.stream()), "cudaEventRecord", 0);
      check(cudaGraphLaunch(replay, queue_.stream()), "cudaGraphLaunch", 0);
      check(cudaEventRecord(end, queue_.stream()), "cudaEventRecord", 0);
      queue_.synchronize();
      float ms = 0;
      check(cudaEventElapsedTime(&ms, begin, end), "cudaEventElapsedTime", 0);
      if (i >= 2) times.push_back(ms * 1e3F / kCalls);
    }
    std::nth_element(times.begin(), times.begin() + kReplays / 2, times.end());
    fmt::print("{:<20} {:>6} rows {:>9.2f} us, {:>8.2f} us for its bytes\n", name, tokens_,
               times[kReplays / 2], bytes / kBandwidth * 1e6);
    cudaGraphExecDestroy(replay);
    cudaGraphDestroy(graph);
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
  }

  void run();
  void measure_sample();

 private:
  Queue queue_;
  int64_t tokens_;
  std::vector<DeviceBuffer> memory_;
};

void Bench::run() {
  const auto rows = static_cast<double>(tokens_);
  measure("empty kernel", 0, [&] { launch(queue_, "empty", empty_kernel, LaunchShape{dim3(132), 128}); });

  const Tensor residual = random(tokens_, kH);
  const Tensor weight = random(1, kH);
  const Tensor sums = tensor(DType::i64, tokens_, kH + 1);
  const Tensor normed = tensor(DType::bf16, tokens_, kH);
  measure("rms_norm", rows * kH * 6, [&] { rms_norm(queue_, residual, weight, 1e-6F, normed); });
  measure("clear_sums", rows * kH * 8, [&] { clear_sums(queue_, sums); });
  measure("add_sums", rows * kH * 16, [&] { add_sums(queue_, sums, {}, residual); });
  measure("add_sums_norm", rows * kH * 26,
          [&] { add_sums_norm(queue_, sums, {}, residual, weight, 1e-6F, normed); });

  std::vector<int32_t> ids(static_cast<size_t>(tokens_));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i * 7919 % kV);
  const Tensor id = integers(ids);
  const Tensor table = tensor(DType::bf16, kV, kH);
  measure("embed", rows * kH * 6, [&] { embed(queue_, id, table, residual); });

  const Tensor q = random(tokens_, kHeads * kD);
  const Tensor k = random(tokens_, kKvHeads * kD);
  const Tensor v = random(tokens_, kKvHeads * kD);
  const Tensor head_weight = random(1, kD);
  const Tensor cos_sin = random(tokens_, kD);
  const Tensor frequencies = random(1, kD / 2);
  const Tensor q_out = tensor(DType::bf16, tokens_, kHeads * kD);
  const Tensor k_out = tensor(DType::bf16, tokens_, kKvHeads * kD);
  // Up to 256 rows are as many decoding sequences; more are one prefill.
  const int64_t num_segments = tokens_ <= 256 ? tokens_ : 1;
  const int64_t position = tokens_ <= 256 ? 1000 : 0;
  const int64_t blocks_each = ceil_div(position + tokens_ / num_segments, kKvTokens);
  std::vector<int32_t> columns;
  std::vector<int32_t> blocks;
  for (int64_t c = 0; c < num_segments; ++c) {
    for (int64_t value : {c, tokens_ / num_segments, position, c * blocks_each})
      columns.push_back(static_cast<int32_t>(value));
    for (int64_t b = 0; b < blocks_each; ++b) blocks.push_back(static_cast<int32_t>(c * blocks_each + b));
  }
  AttentionBatch batch;
  batch.segments =
      Tensor(integers(columns).bytes(), DType::i32, num_segments, SegmentColumn::count, SegmentColumn::count);
  batch.block_tables = integers(blocks);
  batch.longest_segment = tokens_ / num_segments;
  const KvTiles tiles{kKvHeads, kD};
  memory_.emplace_back(0, static_cast<size_t>(num_segments * blocks_each * tiles.block_bytes()));
  const KvTilesView cache{tiles, memory_.back().data(), num_segments * blocks_each};
  measure("rope_table", rows * kD * 4, [&] { rope_table(queue_, id, frequencies, 1, cos_sin); });
  measure("norm_rope q", rows * kHeads * kD * 6,
          [&] { norm_rope(queue_, q, head_weight, 1e-6F, cos_sin, q_out); });
  measure("norm_rope k", rows * kKvHeads * kD * 6,
          [&] { norm_rope(queue_, k, head_weight, 1e-6F, cos_sin, k_out); });
  measure("append_kv", rows * kKvHeads * kD * 10, [&] { append_kv(queue_, k_out, v, batch, cache); });
  measure("norm_rope_append", rows * (kHeads + 2 * kKvHeads) * kD * 6, [&] {
    norm_rope_append(queue_, {q, k, v}, {head_weight, head_weight, 1e-6F, cos_sin}, q_out, batch, cache);
  });

  const Tensor logits = random(tokens_, kE);
  const ChosenExperts chosen{tensor(DType::i32, tokens_, kTopK), tensor(DType::f32, tokens_, kTopK)};
  const ExpertRows sorted{tensor(DType::i32, 1, kE + 1), tensor(DType::i32, 1, kE + 1),
                          tensor(DType::i32, 1, tokens_ * kTopK), tensor(DType::f32, 1, tokens_ * kTopK)};
  const Tensor counts = tensor(DType::i64, 1, kE);
  const RouteOptions options{kTopK, true};
  measure("choose_experts", rows * (kE + 2 * kTopK) * 4,
          [&] { choose_experts(queue_, logits, options, chosen); });
  measure("sort_by_expert", rows * kTopK * 16, [&] { sort_by_expert(queue_, chosen, sorted); });
  measure("count_experts", rows * kTopK * 4, [&] { count_experts(queue_, chosen.experts, counts); });
  measure("route", rows * (kE + 6 * kTopK) * 4,
          [&] { route(queue_, logits, options, chosen, sorted, counts); });
  const TiledLayout packed{tokens_, kH};
  const Tensor matrix = tensor(DType::u8, 1, packed.bytes());
  measure("pack_rows", rows * kH * 4, [&] { pack_rows(queue_, normed, packed, matrix.bytes()); });
  if (tokens_ <= 256) measure_sample();
}

// A vocabulary's logits at temperature 0.8: greedy, within a nucleus of 0.95, and among the likeliest 20,
// with the log probabilities of these.
void Bench::measure_sample() {
  const auto bytes = static_cast<double>(tokens_ * kV * 4);
  const Tensor logits = tensor(DType::f32, tokens_, kV);
  random_logits<<<256, 256, 0, queue_.stream()>>>(
      logits.data<float>(), static_cast<size_t>(tokens_ * logits.row_stride()), memory_.size());
  const Tensor params = tensor(DType::u8, tokens_, sizeof(SampleParams));
  const Tensor scratch = tensor(DType::u8, std::min<int64_t>(tokens_, 128), sample_scratch_bytes(kV));
  const SampledRows output{tensor(DType::i32, 1, tokens_), tensor(DType::i32, 1, tokens_),
                           tensor(DType::f32, tokens_, 21), tensor(DType::i32, tokens_, 20)};
  SampleRows input;
  input.logits = logits;
  input.params = params;
  const auto measure_with = [&](const char* name, SampleParams all) {
    std::vector<std::byte> rows(static_cast<size_t>(tokens_ * params.row_stride()));
    for (int64_t r = 0; r < tokens_; ++r) {
      all.seed = static_cast<uint64_t>(r);
      std::memcpy(rows.data() + r * params.row_stride(), &all, sizeof(all));
    }
    queue_.copy(rows.data(), params.bytes(), rows.size());
    queue_.synchronize();
    measure(name, bytes, [&] { sample(queue_, input, scratch, output); });
  };
  SampleParams greedy, top_p, top_k;
  greedy.temperature = 0;
  top_p.temperature = top_k.temperature = 0.8;
  top_p.top_p = 0.95;
  top_k.top_k = top_k.num_top = 20;
  measure_with("sample, greedy", greedy);
  measure_with("sample, top_p", top_p);
  measure_with("sample, top_k", top_k);
}

}  // namespace
}  // namespace chorale::cuda

// gpu_light_bench [TOKENS]: so many alone.
int main(int argc, char** argv) {
  if (argc > 1) {
    chorale::cuda::Bench(std::stoll(argv[1])).run();
    return 0;
  }
  for (int64_t tokens : {1, 4, 16, 32, 128, 256, 2048, 16384}) chorale::cuda::Bench(tokens).run();
  return 0;
}
