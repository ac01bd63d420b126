// The float32 matrix products of fitting an expert, beside the peak of fused multiply-adds on float32
// measured in the same run. Usage: gemm_bench [--threads T --instruction-set I]
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "base/random.h"
#include "kernels/gemm.h"
#include "tools/bench/ceilings.h"
#include "tools/machine.h"

namespace chorale::bench {
namespace {

constexpr int kRepeats = 7;  // of the peak and a product by turns; both are the best of these

struct Product {
  const char* name;
  int64_t m, k, n;
  bool a_transposed, b_transposed;
};

constexpr Product kProducts[] = {{"forward", 8192, 256, 512, false, true},
                                 {"gradient of the input", 8192, 512, 256, false, false},
                                 {"gradient of weights", 512, 8192, 256, true, false},
                                 {"Gram matrix", 2048, 8192, 2048, true, false},
                                 {"logits", 2048, 256, 4096, false, true},
                                 {"gradient of logits", 2048, 4096, 256, false, false}};

using Clock = std::chrono::steady_clock;

template <typename Work>
double best_seconds(const Work& work) {
  double best = 1e30;
  for (int i = 0; i < 3; ++i) {
    const auto start = Clock::now();
    work();
    best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
  }
  return best;
}

// Rows that begin at cache lines; the values do not matter, but must not be subnormal.
Tensor filled_matrix(Arena& arena, int64_t rows, int64_t columns) {
  const Tensor matrix = arena.matrix(DType::f32, rows, columns);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c)
      matrix.row<float>(r)[c] = 1.0F / static_cast<float>(1 + (r + c) % 7);
  return matrix;
}

void run(int threads, InstructionSet isa) {
  ThreadPool pool(threads);
  const Stream stream(pool, isa);
  // Products of float32 do not use the bf16 instruction.
  const InstructionSet multiplies = isa == InstructionSet::avx512_bf16 ? InstructionSet::avx512 : isa;
  fmt::print("{}, {} threads, {}, float32\n\n", tools::this_machine().processor, threads, name_of(isa));
  fmt::print("{:<22} {:>5} {:>5} {:>5} {:>10} {:>10} {:>9} {:>9} {:>11}\n", "product", "M", "K", "N",
             "GFLOP/s", "B packed", "peak", "fraction", "B packed");
  for (const Product& p : kProducts) {
    Arena arena(Arena::matrix_bytes(DType::f32, p.a_transposed ? p.k : p.m, p.a_transposed ? p.m : p.k) +
                Arena::matrix_bytes(DType::f32, p.b_transposed ? p.n : p.k, p.b_transposed ? p.k : p.n) +
                Arena::matrix_bytes(DType::f32, p.m, p.n));
    const GemmOperand a{filled_matrix(arena, p.a_transposed ? p.k : p.m, p.a_transposed ? p.m : p.k),
                        p.a_transposed};
    const GemmOperand b{filled_matrix(arena, p.b_transposed ? p.n : p.k, p.b_transposed ? p.k : p.n),
                        p.b_transposed};
    const Tensor c = filled_matrix(arena, p.m, p.n);
    GemmScratch scratch;
    PackedRhs packed;
    pack_rhs(stream, b, packed);
    gemm(stream, a, b, c, GemmMode::assign, scratch);  // allocates
    double peak = 0, seconds = 1e30, packed_seconds = 1e30;
    for (int i = 0; i < kRepeats; ++i) {
      peak = std::max(peak, peak_operations(pool, multiplies, WeightFormat::f32));
      seconds = std::min(seconds, best_seconds([&] { gemm(stream, a, b, c, GemmMode::assign, scratch); }));
      packed_seconds =
          std::min(packed_seconds, best_seconds([&] { gemm(stream, a, packed, c, GemmMode::assign); }));
    }
    const double operations = 2e-9 * static_cast<double>(p.m * p.k * p.n);
    fmt::print("{:<22} {:>5} {:>5} {:>5} {:>10.1f} {:>10.1f} {:>9.1f} {:>8.0f}% {:>10.0f}%\n", p.name, p.m,
               p.k, p.n, operations / seconds, operations / packed_seconds, peak / 1e9,
               100e9 * operations / seconds / peak, 100e9 * operations / packed_seconds / peak);
  }
}

}  // namespace
}  // namespace chorale::bench

int main(int argc, char** argv) {
  int threads = chorale::available_cores();
  std::string isa = "auto";
  CLI::App app("The float32 matrix products of fitting an expert, beside the machine's peak");
  app.add_option("--threads", threads);
  app.add_option("--instruction-set", isa);
  CLI11_PARSE(app, argc, argv);
  chorale::bench::run(threads, chorale::select_instruction_set(isa));
}
