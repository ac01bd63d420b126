// Random weights in each quantized form, written by the definition of the form and beside the values that
// they stand for, for the tests of LinearSource.
#pragma once

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "base/float16.h"
#include "base/float8.h"
#include "io/checkpoint.h"
#include "io/quantization_config.h"
#include "test_files.h"

namespace chorale::io {

struct MadeTensor {
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
  std::vector<std::byte> bytes;
};

template <typename T>
MadeTensor made_tensor(DType dtype, std::vector<int64_t> shape, const std::vector<T>& values) {
  const auto bytes = std::as_bytes(std::span(values));
  return {dtype, std::move(shape), {bytes.begin(), bytes.end()}};
}

struct MadeLinear {
  QuantizationConfig config;
  int64_t n = 0;
  int64_t k = 0;
  std::map<std::string, MadeTensor> tensors;
  std::vector<float> values;  // [N, K]
  std::vector<int> q, zeros;  // int4: [N, K], of each element
  std::vector<float> scales;

  size_t at(int64_t row, int64_t column) const { return static_cast<size_t>(row * k + column); }
  std::vector<int64_t> shape() const { return {n, k}; }

  Checkpoint open(const TemporaryFolder& folder) const {
    std::vector<TensorToWrite> to_write;
    for (const auto& [name, t] : tensors) to_write.push_back({name, t.dtype, t.shape, t.bytes});
    write_safetensors(folder / "model.safetensors", to_write);
    return Checkpoint::open(folder.path());
  }
};

using Random = std::mt19937_64;

inline int64_t below(Random& random, int64_t n) {
  return static_cast<int64_t>(random() % static_cast<uint64_t>(n));
}

inline bf16 random_scale(Random& random) {
  return to_bf16(std::uniform_real_distribution<float>(-0.1F, 0.1F)(random));
}

inline MadeLinear make_fp8(Random& random, int64_t n, int64_t k, int64_t block_rows, int64_t block_columns) {
  MadeLinear made{.n = n, .k = k};
  made.config = {.method = QuantizationConfig::Method::fp8,
                 .block_rows = block_rows,
                 .block_columns = block_columns,
                 .bits = 8};
  const int64_t across = (k + block_columns - 1) / block_columns;
  const int64_t down = (n + block_rows - 1) / block_rows;
  std::vector<bf16> scales;
  for (int64_t i = 0; i < down * across; ++i) scales.push_back(random_scale(random));
  std::vector<uint8_t> weight;
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t column = 0; column < k; ++column) {
      const auto bits = static_cast<uint8_t>(below(random, 127) + 128 * below(random, 2));  // not NaN
      const bf16 scale = scales[static_cast<size_t>(row / block_rows * across + column / block_columns)];
      weight.push_back(bits);
      made.values.push_back(to_float(f8_e4m3{bits}) * to_float(scale));
    }
  }
  made.tensors["x.weight"] = made_tensor(DType::f8_e4m3, {n, k}, weight);
  made.tensors["x.weight_scale_inv"] = made_tensor(DType::bf16, {down, across}, scales);
  return made;
}

// The values of an int4 weight: `groups` has the group of each input.
struct Int4Parts {
  std::vector<int> q;      // [N, K]
  std::vector<int> zeros;  // [G, N], true ones
  std::vector<f16> scales;
};

inline Int4Parts fill_int4(Random& random, MadeLinear& made, const std::vector<int32_t>& groups,
                           int64_t count, int first_zero) {
  Int4Parts parts;
  for (int64_t i = 0; i < count * made.n; ++i) {
    parts.zeros.push_back(first_zero + static_cast<int>(below(random, 16)));
    parts.scales.push_back(to_f16(std::uniform_real_distribution<float>(-0.1F, 0.1F)(random)));
  }
  for (int64_t row = 0; row < made.n; ++row) {
    for (int64_t column = 0; column < made.k; ++column) {
      const int q = static_cast<int>(below(random, 16));
      const auto g = static_cast<size_t>(groups[static_cast<size_t>(column)] * made.n + row);
      made.q.push_back(q);
      made.zeros.push_back(parts.zeros[g]);
      made.scales.push_back(to_float(parts.scales[g]));
      made.values.push_back(made.scales.back() * static_cast<float>(q - parts.zeros[g]));
    }
  }
  return parts;
}

struct GptqOptions {
  int64_t group_size = 32;  // or -1
  bool v2 = false;
  bool shuffled = false;
};

inline MadeLinear make_gptq(Random& random, int64_t n, int64_t k, const GptqOptions& options) {
  MadeLinear made{.n = n, .k = k};
  made.config = {.method = QuantizationConfig::Method::gptq,
                 .bits = 4,
                 .group_size = options.group_size,
                 .desc_act = options.shuffled,
                 .zeros_minus_one = !options.v2};
  const int64_t size = options.group_size < 0 ? k : options.group_size;
  const int64_t count = (k + size - 1) / size;
  std::vector<int32_t> groups;
  for (int64_t i = 0; i < k; ++i) groups.push_back(static_cast<int32_t>(i / size));
  if (options.shuffled) std::shuffle(groups.begin(), groups.end(), random);
  const int stored_less = options.v2 ? 0 : 1;
  const Int4Parts parts = fill_int4(random, made, groups, count, stored_less);

  std::vector<uint32_t> words(static_cast<size_t>(k / 8 * n));
  for (int64_t row = 0; row < n; ++row)
    for (int64_t column = 0; column < k; ++column)
      words[static_cast<size_t>(column / 8 * n + row)] |= static_cast<uint32_t>(made.q[made.at(row, column)])
                                                          << (column % 8 * 4);
  std::vector<uint32_t> zeros(static_cast<size_t>(count * n / 8));
  for (int64_t i = 0; i < count * n; ++i)
    zeros[static_cast<size_t>(i / 8)] |=
        static_cast<uint32_t>(parts.zeros[static_cast<size_t>(i)] - stored_less) << (i % 8 * 4);
  made.tensors["x.qweight"] = made_tensor(DType::i32, {k / 8, n}, words);
  made.tensors["x.qzeros"] = made_tensor(DType::i32, {count, n / 8}, zeros);
  made.tensors["x.scales"] = made_tensor(DType::f16, {count, n}, parts.scales);
  made.tensors["x.g_idx"] = made_tensor(DType::i32, {k}, groups);
  return made;
}

inline MadeLinear make_awq(Random& random, int64_t n, int64_t k, int64_t group_size) {
  MadeLinear made{.n = n, .k = k};
  made.config = {.method = QuantizationConfig::Method::awq, .bits = 4, .group_size = group_size};
  const int64_t size = group_size < 0 ? k : group_size;
  std::vector<int32_t> groups;
  for (int64_t i = 0; i < k; ++i) groups.push_back(static_cast<int32_t>(i / size));
  const Int4Parts parts = fill_int4(random, made, groups, k / size, 0);

  constexpr int kOrder[8] = {0, 2, 4, 6, 1, 3, 5, 7};
  std::vector<uint32_t> words;
  for (int64_t column = 0; column < k; ++column)
    for (int64_t first = 0; first < n; first += 8) {
      uint32_t word = 0;
      for (int i = 0; i < 8; ++i)
        word |= static_cast<uint32_t>(made.q[made.at(first + kOrder[i], column)]) << (i * 4);
      words.push_back(word);
    }
  std::vector<uint32_t> zeros;
  for (int64_t first = 0; first < k / size * n; first += 8) {
    uint32_t word = 0;
    for (int i = 0; i < 8; ++i)
      word |= static_cast<uint32_t>(parts.zeros[static_cast<size_t>(first + kOrder[i])]) << (i * 4);
    zeros.push_back(word);
  }
  made.tensors["x.qweight"] = made_tensor(DType::i32, {k, n / 8}, words);
  made.tensors["x.qzeros"] = made_tensor(DType::i32, {k / size, n / 8}, zeros);
  made.tensors["x.scales"] = made_tensor(DType::f16, {k / size, n}, parts.scales);
  return made;
}

}  // namespace chorale::io
