// What the GPU's kernels take for the shapes of Qwen3-30B-A3B, beside what the same run can read, copy and
// multiply. Prints a line of JSON for each figure and a table last. Weights and caches are random and rotate
// over more memory than the second-level cache has; each figure is the median of several replays of a graph
// of many calls.
#include <algorithm>
#include <cstdio>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/partial_sums.h"
#include "kernels/cuda/products.h"

namespace chorale::cuda {
namespace {

constexpr int64_t kH = 2048, kQ = 4096, kKv = 512, kE = 128, kTopK = 8, kI = 768, kV = 151'936, kChunks = 8;
constexpr size_t kPool = size_t{1640} << 20;  // of weights
constexpr double kTensorRate = 783e12;        // products a second that a library reaches on this kind of GPU

__global__ void fill(uint32_t* words, size_t count, float scale) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count;
       i += size_t{gridDim.x} * blockDim.x) {
    uint64_t z = (i + 1) * 0x9E3779B97F4A7C15ULL;
    z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27U)) * 0x94D049BB133111EBULL;
    const float a = static_cast<float>(z & 0xFFFFU) + static_cast<float>(z >> 16U & 0xFFFFU) - 65535.0F;
    const float b = static_cast<float>(z >> 32U & 0xFFFFU) + static_cast<float>(z >> 48U) - 65535.0F;
    const float unit = scale * 2.449F / 65536;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(words[i]) : "f"(a * unit), "f"(b * unit));
  }
}
__global__ void read_all(const uint4* data, size_t count, uint32_t* out) {
  uint32_t sum = 0;
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count;
       i += 4 * size_t{gridDim.x} * blockDim.x) {
#pragma unroll
    for (size_t j = 0; j < 4; ++j) {
      const size_t at = i + j * gridDim.x * blockDim.x;
      if (at < count) {
        const uint4 v = __ldcs(data + at);
        sum ^= v.x ^ v.y ^ v.z ^ v.w;
      }
    }
  }
  if (sum == 0x12345678U) *out = sum;
}

__global__ void copy_all(const uint4* from, uint4* to, size_t count) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count;
       i += size_t{gridDim.x} * blockDim.x)
    __stcs(to + i, __ldcs(from + i));
}

class Bench {
 public:
  Bench()
      : queue_(0),
        weights_(0, kPool),
        x_(0, size_t{1} << 30),
        out_(0, size_t{1700} << 20),
        scratch_(0, size_t{1100} << 20),
        residual_(0, size_t{16'384} * kH * 4),
        normed_(0, size_t{16'384} * kH * 2) {
    fill<<<1024, 256, 0, queue_.stream()>>>(reinterpret_cast<uint32_t*>(weights_.data()), kPool / 4, 0.02F);
    fill<<<1024, 256, 0, queue_.stream()>>>(reinterpret_cast<uint32_t*>(x_.data()), (size_t{1} << 30) / 4,
                                            1.0F);
    queue_.synchronize();
  }

  // Median microseconds of one call.
  double time(int calls, const std::function<void(int)>& call) {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaEvent_t start, end;
    ensure(cudaStreamBeginCapture(queue_.stream(), cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < calls; ++i) call(i);
    ensure(cudaStreamEndCapture(queue_.stream(), &graph));
    ensure(cudaGraphInstantiate(&exec, graph, 0));
    ensure(cudaEventCreate(&start));
    ensure(cudaEventCreate(&end));
    std::vector<float> times;
    for (int run = 0; run < 7; ++run) {
      ensure(cudaEventRecord(start, queue_.stream()));
      ensure(cudaGraphLaunch(exec, queue_.stream()));
      ensure(cudaEventRecord(end, queue_.stream()));
      ensure(cudaEventSynchronize(end));
      float ms = 0;
      ensure(cudaEventElapsedTime(&ms, start, end));
      if (run >= 2) times.push_back(ms * 1000 / static_cast<float>(calls));
    }
    ensure(cudaGraphExecDestroy(exec));
    ensure(cudaGraphDestroy(graph));
    ensure(cudaEventDestroy(start));
    ensure(cudaEventDestroy(end));
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
  }

  void ceilings() {
    const size_t bytes = size_t{1} << 30;
    for (int i = 0; i < 400; ++i) queue_.copy(weights_.data(), out_.data(), bytes);  // the clocks rise
    queue_.synchronize();
    const double copy = time(4, [&](int) {
      copy_all<<<132 * 8, 256, 0, queue_.stream()>>>(reinterpret_cast<const uint4*>(weights_.data()),
                                                     reinterpret_cast<uint4*>(out_.data()), bytes / 16);
    });
    const double read = time(4, [&](int) {
      read_all<<<132 * 8, 256, 0, queue_.stream()>>>(reinterpret_cast<const uint4*>(weights_.data()),
                                                     kPool / 16, reinterpret_cast<uint32_t*>(out_.data()));
    });
    copy_rate_ = 2 * static_cast<double>(bytes) / copy * 1e6;
    read_rate_ = static_cast<double>(kPool) / read * 1e6;
    fmt::print("{{\"copy_gb_s\": {:.0f}, \"read_gb_s\": {:.0f}}}\n", copy_rate_ / 1e9, read_rate_ / 1e9);
  }

  void report(const std::string& op, int64_t t, double us, double bytes, double products) {
    const double memory = bytes / read_rate_ * 1e6, compute = 2 * products / kTensorRate * 1e6;
    const double floor = std::max(memory, compute);
    fmt::print(
        "{{\"op\": \"{}\", \"tokens\": {}, \"us\": {:.2f}, \"floor_us\": {:.2f}, \"tb_s\": {:.2f}, "
        "\"tflop_s\": "
        "{:.1f}}}\n",
        op, t, us, floor, bytes / us / 1e6, 2 * products / us / 1e6);
    std::fflush(stdout);
    table_ += fmt::format("{:<22} {:>6} {:>10.2f} {:>10.2f} {:>6.0f}% {:>7.2f} {:>8.1f}\n", op, t, us, floor,
                          100 * floor / us, bytes / us / 1e6, 2 * products / us / 1e6);
  }

  void matmul_of(const std::string& op, const std::vector<int64_t>& outputs, int64_t t, bool rotates = true) {
    int64_t n = 0, bytes = 0;
    for (int64_t width : outputs) {
      n += width;
      bytes += TiledLayout{width, kH}.bytes();
    }
    const int64_t copies = rotates ? std::clamp<int64_t>(static_cast<int64_t>(kPool) / bytes, 1, 48) : 1;
    const double us = time(static_cast<int>(std::max<int64_t>(copies, 4)), [&](int call) {
      std::vector<TiledTarget> targets;
      const std::byte* weight = weights_.data() + call % copies * bytes;
      int64_t out = 0;
      for (int64_t width : outputs) {
        targets.push_back(
            {{TiledLayout{width, kH}, weight}, {}, Tensor(out_.data() + out, DType::f32, t, width, width)});
        weight += TiledLayout{width, kH}.bytes();
        out += t * width * 4;
      }
      matmul(queue_, Tensor(x_.data(), DType::bf16, t, kH, kH), targets);
    });
    report(op, t, us, static_cast<double>(bytes + t * kH * 2 + t * n * 4), static_cast<double>(t) * n * kH);
  }

  // A product and the addition of its sums to the residual, with a norm: as a step has them, where partial
  // sums may be kept from one to the other.
  void add_product(const Tensor& x, const TiledExperts& matrices, ExpertRows rows, int64_t tokens) {
    const int64_t floats = partials_scratch_floats(x.rows(), tokens, kH);
    rows.scratch = Tensor(scratch_.data(), DType::f32, 1, floats, floats);
    const Tensor residual(residual_.data(), DType::f32, tokens, kH, kH), weight(norm_, DType::f32, 1, kH, kH);
    const Tensor normed(normed_.data(), DType::bf16, tokens, kH, kH);
    const PartialSums partials = order_free_partials(queue_, x, matrices, rows, tokens);
    if (!partials.empty()) return add_partials_norm(queue_, partials, {}, residual, {weight, 1e-6F}, normed);
    const SumMode mode = rows.all_tokens() ? SumMode::assign : SumMode::add_to_zeros;
    // Sums that a kernel before has left as zero.
    order_free_matmul(queue_, x, matrices, rows, sums_of(tokens), {.mode = mode, .is_zero = true});
    add_sums_norm(queue_, sums_of(tokens), {}, residual, weight, 1e-6F, normed);
  }
  // Rows in whole cache lines.
  Tensor sums_of(int64_t t) { return Tensor(out_.data(), DType::i64, t, kH + 1, kH + 8); }

  void o_proj(int64_t t, int64_t chunks) {
    const TiledLayout layout{kH, kQ, chunks, false};
    const int64_t copies = std::min<int64_t>(static_cast<int64_t>(kPool) / layout.bytes(), 48);
    const double us = time(static_cast<int>(copies), [&](int call) {
      add_product(Tensor(x_.data(), DType::bf16, t, kQ, kQ),
                  {layout, weights_.data() + call % copies * layout.bytes(), 1}, {}, t);
    });
    report(fmt::format("o_proj, add, chunks: {}", chunks), t, us,
           static_cast<double>(layout.bytes() + t * kQ * 2 + t * kH * 10), static_cast<double>(t) * kH * kQ);
  }

  // Uniform routing of t tokens over `experts`; `first` shifts the experts, so that calls meet other weights.
  struct Routing {
    DeviceBuffer memory;
    ExpertRows rows;
    int64_t touched = 0;
  };
  Routing route(int64_t t, int64_t experts, unsigned seed) {
    const int64_t top_k = std::min(kTopK, experts), pairs = t * top_k;
    std::mt19937 random(seed);
    std::vector<std::vector<int32_t>> tokens(static_cast<size_t>(experts));
    std::vector<int32_t> ids(static_cast<size_t>(experts));
    for (int64_t i = 0; i < experts; ++i) ids[static_cast<size_t>(i)] = static_cast<int32_t>(i);
    for (int64_t token = 0; token < t; ++token) {
      for (int64_t i = 0; i < top_k; ++i) {
        std::swap(ids[static_cast<size_t>(i)],
                  ids[static_cast<size_t>(std::uniform_int_distribution<int64_t>(i, experts - 1)(random))]);
        tokens[static_cast<size_t>(ids[static_cast<size_t>(i)])].push_back(static_cast<int32_t>(token));
      }
    }
    std::vector<int32_t> offsets{0}, active{0}, sorted;
    for (int32_t e = 0; e < experts; ++e) {
      const auto& mine = tokens[static_cast<size_t>(e)];
      sorted.insert(sorted.end(), mine.begin(), mine.end());
      offsets.push_back(static_cast<int32_t>(sorted.size()));
      if (!mine.empty()) active.push_back(e);
    }
    active[0] = static_cast<int32_t>(active.size()) - 1;
    Routing routing;
    routing.touched = active[0];
    active.resize(static_cast<size_t>(experts) + 1);
    const std::vector<float> weights(static_cast<size_t>(pairs), 0.125F);
    const auto list = [](int64_t n) { return static_cast<size_t>((n * 4 + 255) / 256 * 256); };
    const size_t at[] = {0, list(experts + 1), 2 * list(experts + 1), 2 * list(experts + 1) + list(pairs)};
    routing.memory = DeviceBuffer(0, at[3] + list(pairs));
    std::byte* base = routing.memory.data();
    queue_.copy(offsets.data(), base, offsets.size() * 4);
    queue_.copy(active.data(), base + at[1], active.size() * 4);
    queue_.copy(sorted.data(), base + at[2], sorted.size() * 4);
    queue_.copy(weights.data(), base + at[3], weights.size() * 4);
    queue_.synchronize();
    routing.rows = {Tensor(base, DType::i32, 1, experts + 1, experts + 1),
                    Tensor(base + at[1], DType::i32, 1, experts + 1, experts + 1),
                    Tensor(base + at[2], DType::i32, 1, pairs, pairs),
                    Tensor(base + at[3], DType::f32, 1, pairs, pairs)};
    return routing;
  }

  // Uniform routing of steps, each anew.
  struct Steps {
    int64_t tokens, experts, pairs;
    std::vector<Routing> routings;
    double touched = 0;  // experts, in the mean
    std::string suffix;

    ExpertRows rows(int call) const {
      return experts == 1 ? ExpertRows{} : routings[static_cast<size_t>(call) % routings.size()].rows;
    }
  };
  Steps steps(int64_t t, int64_t experts) {
    Steps steps{t, experts, t * std::min(kTopK, experts), {}, 0, experts == 1 ? ", 1 expert" : ""};
    for (unsigned i = 0; i < 6; ++i) steps.routings.push_back(route(t, experts, 10 + i));
    for (const Routing& r : steps.routings) steps.touched += static_cast<double>(r.touched) / 6;
    return steps;
  }
  TiledExperts experts_of(const TiledLayout& layout, int64_t count, int call) {
    const int64_t copies =
        std::max<int64_t>(1, std::min<int64_t>(static_cast<int64_t>(kPool) / (layout.bytes() * count), 48));
    return {layout, weights_.data() + call % copies * layout.bytes() * count, count};
  }

  void gate_up(const Steps& steps) {
    const TiledLayout layout{kI, kH, 1, true};
    const int64_t t = steps.tokens, pairs = steps.pairs;
    const double bytes = steps.touched * static_cast<double>(layout.bytes()) +
                         static_cast<double>(t * kH * 2 + pairs * kI * 2);
    const double products = static_cast<double>(pairs) * 2 * kI * kH;
    const Tensor out(out_.data(), DType::bf16, pairs, kI, kI);
    const double us = time(24, [&](int call) {
      gated_matmul(queue_, Tensor(x_.data(), DType::bf16, t, kH, kH), experts_of(layout, steps.experts, call),
                   steps.rows(call), out);
    });
    report("gate_up" + steps.suffix, t, us, bytes, products);
    if (steps.experts == 1 || t < 128) return;
    std::byte* gathered = x_.data() + (size_t{256} << 20);
    const double gathered_us = time(24, [&](int call) {
      // Rows of bits, which gather_rows takes for float32.
      gather_rows(queue_, steps.rows(call).tokens, Tensor(x_.data(), DType::f32, t, kH / 2, kH / 2),
                  Tensor(gathered, DType::f32, pairs, kH / 2, kH / 2));
      gated_matmul(queue_, Tensor(gathered, DType::bf16, pairs, kH, kH),
                   experts_of(layout, steps.experts, call), steps.rows(call), out,
                   {.input = RowInput::by_row});
    });
    report("gather, gate_up", t, gathered_us, bytes, products);
  }

  void down(const Steps& steps, int64_t chunks) {
    const TiledLayout layout{kH, kI, chunks, false};
    const int64_t t = steps.tokens, pairs = steps.pairs;
    const double us = time(24, [&](int call) {
      add_product(Tensor(x_.data(), DType::bf16, pairs, kI, kI), experts_of(layout, steps.experts, call),
                  steps.rows(call), t);
    });
    report(fmt::format("down, add, chunks: {}{}", chunks, steps.suffix), t, us,
           steps.touched * static_cast<double>(layout.bytes()) +
               static_cast<double>(pairs * kI * 2 + t * kH * 10),
           static_cast<double>(pairs) * kI * kH);
  }

  // `sequences` of `context` tokens each, of which the last `fresh` are new.
  void attention_of(const std::string& op, int64_t sequences, int64_t context, int64_t fresh) {
    constexpr int64_t kHeads = 32, kKvHeads = 4, kDim = 128;
    const KvTiles tiles{kKvHeads, kDim};
    const int64_t per_sequence = ceil_div(context, kKvTokens), blocks = sequences * per_sequence;
    const int64_t pool = static_cast<int64_t>(kPool) / tiles.block_bytes(), tokens = sequences * fresh;
    const int calls = 8;
    std::vector<int32_t> chunks, tables;
    for (int64_t s = 0; s < sequences; ++s)
      for (int64_t value : {s * fresh, fresh, context - fresh, s * per_sequence})
        chunks.push_back(static_cast<int32_t>(value));
    for (int call = 0; call < calls; ++call)
      for (int64_t b = 0; b < blocks; ++b) tables.push_back(static_cast<int32_t>((call * blocks + b) % pool));
    const DeviceBuffer chunk_memory(0, chunks.size() * 4), table_memory(0, tables.size() * 4);
    const int64_t floats = attention_scratch_floats(tiles, blocks);
    const DeviceBuffer scratch(0, static_cast<size_t>(floats) * 4);
    queue_.copy(chunks.data(), chunk_memory.data(), chunks.size() * 4);
    queue_.copy(tables.data(), table_memory.data(), tables.size() * 4);
    queue_.synchronize();
    const double us = time(calls, [&](int call) {
      const Tensor q(x_.data(), DType::bf16, tokens, kHeads * kDim, kHeads * kDim);
      const AttentionBatch batch{
          Tensor(chunk_memory.data(), DType::i32, sequences, 4, 4),
          Tensor(table_memory.data() + call * blocks * 4, DType::i32, 1, blocks, blocks), fresh};
      attention(queue_, q, {tiles, weights_.data(), pool}, batch, kHeads,
                Tensor(scratch.data(), DType::f32, 1, floats, floats),
                Tensor(out_.data(), DType::bf16, tokens, kHeads * kDim, kHeads * kDim));
    });
    const auto seen = static_cast<double>(fresh) * static_cast<double>(2 * context - fresh + 1) / 2;
    report(
        op, tokens, us,
        static_cast<double>(blocks * tiles.block_bytes()) + static_cast<double>(tokens * kHeads * kDim * 4),
        2 * static_cast<double>(sequences * kHeads * kDim) * seen);
  }

  void run(const std::string& part) {
    ceilings();
    if (part != "prefill") {
      for (int64_t batch : {1, 4, 16, 32, 128, 256}) {
        attention_of("attention at 128", batch, 128, 1);
        attention_of("attention at 2048", batch, 2048, 1);
      }
    }
    attention_of("attention, prefill", 1, 2048, 2048);
    attention_of("attention, prefill", 1, 8192, 8192);
    attention_of("attention, prefill x 8", 8, 2048, 2048);
    if (part != "attention") products(part == "prefill" ? 2048 : 1);
    fmt::print("\n{:<22} {:>6} {:>10} {:>10} {:>7} {:>7} {:>8}\n", "op", "tokens", "us", "floor us", "of it",
               "TB/s", "TFLOP/s");
    fmt::print(
        "{}copy {:.0f} GB/s, read {:.0f} GB/s; floor: bytes once at the rate of reading, products at {:.0f} "
        "TFLOP/s\n",
        table_, copy_rate_ / 1e9, read_rate_ / 1e9, kTensorRate / 1e12);
  }

 private:
  void products(int64_t least) {
    for (int64_t t : {1, 4, 16, 32, 128, 256, 2048, 16'384}) {
      if (t < least) continue;
      matmul_of("q/k/v", {kQ, kKv, kKv}, t);
      matmul_of("router", {kE}, t);
      for (const int64_t chunks : {kChunks, int64_t{1}}) o_proj(t, chunks);
      for (const int64_t experts : {kE, int64_t{1}}) {
        const Steps all = steps(t, experts);
        gate_up(all);
        for (const int64_t chunks : {kChunks, int64_t{1}}) down(all, chunks);
      }
      if (t <= 256) matmul_of("head", {kV}, t);
    }
  }
  void ensure(cudaError_t status) const { check(status, "benchmark", queue_.index()); }

  Queue queue_;
  DeviceBuffer weights_, x_, out_, scratch_, residual_, normed_;
  std::byte* norm_ = weights_.data();  // a norm's weight, of whatever lies there
  double copy_rate_ = 0, read_rate_ = 0;
  std::string table_;
};

}  // namespace
}  // namespace chorale::cuda

// gpu_bench [attention | prefill]: attention alone, or many tokens alone.
int main(int argc, char** argv) {
  chorale::cuda::Bench().run(argc > 1 ? argv[1] : "");
}
