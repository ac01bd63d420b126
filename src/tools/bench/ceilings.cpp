#include "tools/bench/ceilings.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>

#include "base/memory_info.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace chorale::bench {
namespace {

constexpr uint64_t kMaxBytes = uint64_t{3} << 30;
constexpr size_t kPieceBytes = size_t{1} << 20;
constexpr int kPasses = 3;
constexpr size_t kCopyBytes = size_t{1} << 30;
constexpr int kCopiesPerPass = 8;
constexpr int64_t kRounds = 4'000'000;
constexpr int kChains = 20;  // more independent sums than an instruction has cycles of latency

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::atomic<uint64_t> sink;  // keeps the work from being optimised away

uint64_t sum_words(const std::byte* data, size_t bytes) {
  const auto* words = reinterpret_cast<const uint64_t*>(data);
  std::array<uint64_t, 8> sums{};
  for (size_t i = 0; i < bytes / 8; i += 8) {
    for (size_t lane = 0; lane < 8; ++lane) sums[lane] += words[i + lane];
  }
  uint64_t sum = 0;
  for (const uint64_t s : sums) sum += s;
  return sum;
}

#if defined(__x86_64__)
// Chains that begin with values the compiler does not know stay apart.
__attribute__((target("avx512f"))) inline __m512 opaque_zero() {
  __m512 zero = _mm512_setzero_ps();
  asm volatile("" : "+v"(zero));
  return zero;
}

__attribute__((target("avx512f,avx512bf16"))) double run_bf16() {
  __m512 acc[kChains];
  for (__m512& a : acc) a = opaque_zero();
  const __m512i bits = _mm512_set1_epi32(0x3C003C00);
  const auto pair = reinterpret_cast<__m512bh>(bits);
  for (int64_t i = 0; i < kRounds; ++i) {
#pragma GCC unroll 20
    for (auto& a : acc) a = _mm512_dpbf16_ps(a, pair, pair);
  }
  __m512 sum = _mm512_setzero_ps();
  for (const auto& a : acc) sum = _mm512_add_ps(sum, a);
  sink += static_cast<uint64_t>(_mm512_cvtss_f32(sum));
  return 16.0 * 2 * 2 * kChains;
}

__attribute__((target("avx512f"))) double run_avx512() {
  __m512 acc[kChains];
  for (__m512& a : acc) a = opaque_zero();
  const __m512 one = _mm512_set1_ps(1e-6F);
  for (int64_t i = 0; i < kRounds; ++i) {
#pragma GCC unroll 20
    for (auto& a : acc) a = _mm512_fmadd_ps(one, one, a);
  }
  __m512 sum = _mm512_setzero_ps();
  for (const auto& a : acc) sum = _mm512_add_ps(sum, a);
  sink += static_cast<uint64_t>(_mm512_cvtss_f32(sum));
  return 16.0 * 2 * kChains;
}

__attribute__((target("avx2,fma"))) double run_avx2() {
  constexpr int kAvx2Chains = 12;
  __m256 acc[kAvx2Chains];
  for (__m256& a : acc) {
    a = _mm256_setzero_ps();
    asm volatile("" : "+x"(a));
  }
  const __m256 one = _mm256_set1_ps(1e-6F);
  for (int64_t i = 0; i < kRounds; ++i) {
#pragma GCC unroll 12
    for (auto& a : acc) a = _mm256_fmadd_ps(one, one, a);
  }
  __m256 sum = _mm256_setzero_ps();
  for (const auto& a : acc) sum = _mm256_add_ps(sum, a);
  sink += static_cast<uint64_t>(_mm256_cvtss_f32(sum));
  return 8.0 * 2 * kAvx2Chains;
}

__attribute__((target("avx512f"))) inline __m512i opaque_int() {
  __m512i zero = _mm512_setzero_si512();
  asm volatile("" : "+v"(zero));
  return zero;
}

// Registers that are named keep the compiler from copying them, as it does around the intrinsic.
#define CHORALE_VNNI(n) "vpdpbusd %%zmm31, %%zmm31, %%zmm" #n "\n\t"
double run_vnni() {
  for (int64_t i = 0; i < kRounds; ++i) {
    asm volatile(CHORALE_VNNI(0) CHORALE_VNNI(1) CHORALE_VNNI(2) CHORALE_VNNI(3) CHORALE_VNNI(4)
                     CHORALE_VNNI(5) CHORALE_VNNI(6) CHORALE_VNNI(7) CHORALE_VNNI(8) CHORALE_VNNI(9)
                         CHORALE_VNNI(10) CHORALE_VNNI(11) CHORALE_VNNI(12) CHORALE_VNNI(13) CHORALE_VNNI(14)
                             CHORALE_VNNI(15)::
                                 : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
                                   "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
  }
  return 16.0 * 4 * 2 * 16;
}
#undef CHORALE_VNNI

// Products of 16-bit integers, which bytes become without the instruction above.
__attribute__((target("avx512f,avx512bw"))) double run_avx512_integers() {
  constexpr int kIntegerChains = 12;
  __m512i acc[kIntegerChains];
  for (__m512i& a : acc) a = opaque_int();
  __m512i words[kIntegerChains];
  for (__m512i& w : words) w = opaque_int();
  for (int64_t i = 0; i < kRounds; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < kIntegerChains; ++c)
      acc[c] = _mm512_add_epi32(acc[c], _mm512_madd_epi16(acc[c], words[c]));
  }
  __m512i sum = _mm512_setzero_si512();
  for (const auto& a : acc) sum = _mm512_add_epi32(sum, a);
  alignas(64) std::array<uint64_t, 8> lanes;
  _mm512_store_si512(lanes.data(), sum);
  sink += lanes[0];
  return 32.0 * 2 * kIntegerChains;
}

__attribute__((target("avx2"))) double run_avx2_integers() {
  constexpr int kIntegerChains = 8;
  __m256i acc[kIntegerChains];
  __m256i word = _mm256_setzero_si256();
  asm volatile("" : "+x"(word));
  for (__m256i& a : acc) {
    a = _mm256_setzero_si256();
    asm volatile("" : "+x"(a));
  }
  for (int64_t i = 0; i < kRounds; ++i) {
#pragma GCC unroll 8
    for (auto& a : acc) a = _mm256_add_epi32(a, _mm256_madd_epi16(a, word));
  }
  __m256i sum = _mm256_setzero_si256();
  for (const auto& a : acc) sum = _mm256_add_epi32(sum, a);
  alignas(32) std::array<uint64_t, 4> lanes;
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes.data()), sum);
  sink += lanes[0];
  return 16.0 * 2 * kIntegerChains;
}
#endif

// Without named instructions: what the compiler makes of it.
double run_portable() {
  std::array<float, 64> acc{};
  float factor = 1e-6F;
  asm volatile("" : "+x"(factor));
  for (int64_t i = 0; i < kRounds; ++i) {
    for (float& a : acc) a = a * factor + factor;
  }
  for (const float a : acc) sink += static_cast<uint64_t>(a);
  return 64.0 * 2;
}

double operations_per_round(InstructionSet isa, WeightFormat format) {
  [[maybe_unused]] const bool integers = is_quantized(format);
  switch (isa) {
#if defined(__x86_64__)
    case InstructionSet::avx512_bf16:
      return integers ? run_vnni() : run_bf16();
    case InstructionSet::avx512:
      return integers ? run_avx512_integers() : run_avx512();
    case InstructionSet::avx2:
      return integers ? run_avx2_integers() : run_avx2();
#endif
    default:
      return run_portable();
  }
}

}  // namespace

// A quarter of the memory that is free at most: a large model may have taken the rest.
ReadBandwidth::ReadBandwidth() : ReadBandwidth(std::min(kMaxBytes, available_memory() / 4)) {}

ReadBandwidth::ReadBandwidth(uint64_t bytes)
    : buffer_(std::max<uint64_t>(bytes / kPieceBytes, 1) * kPieceBytes) {
  for (size_t i = 0; i < buffer_.size(); i += 4096)
    buffer_.data()[i] = std::byte{1};  // pages of its own, not the zero page
}

double ReadBandwidth::measure(ThreadPool& pool) const {
  double best = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    const auto start = Clock::now();
    pool.parallel(static_cast<int64_t>(buffer_.size() / kPieceBytes), [&](int64_t i) {
      sink += sum_words(buffer_.data() + static_cast<size_t>(i) * kPieceBytes, kPieceBytes);
    });
    best = std::max(best, static_cast<double>(buffer_.size()) / seconds_since(start));
  }
  return best;
}

CopyBandwidth::CopyBandwidth(const Device& device)
    : queue_(device.driver()->make_queue()), source_(kCopyBytes, device), target_(kCopyBytes, device) {}

double CopyBandwidth::measure() const {
  constexpr auto kColumns = static_cast<int64_t>(kCopyBytes);
  const Tensor from(source_.device_data(), DType::u8, 1, kColumns, kColumns, source_.device());
  const Tensor to(target_.device_data(), DType::u8, 1, kColumns, kColumns, target_.device());
  double best = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    const auto start = Clock::now();
    for (int i = 0; i < kCopiesPerPass; ++i) queue_->copy(from, to);
    queue_->synchronize();
    best = std::max(best, 2.0 * kCopiesPerPass * static_cast<double>(kCopyBytes) / seconds_since(start));
  }
  return best;
}

double peak_operations(ThreadPool& pool, InstructionSet isa, WeightFormat format) {
  double best = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    double operations = 0;
    const auto start = Clock::now();
    pool.parallel(pool.size(), [&](int64_t thread) {
      const double of_round = operations_per_round(isa, format);
      if (thread == 0) operations = of_round;
    });
    best = std::max(best, operations * static_cast<double>(kRounds) * pool.size() / seconds_since(start));
  }
  return best;
}

}  // namespace chorale::bench
