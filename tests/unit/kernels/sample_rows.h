// Random rows for the tests of sampling.
#pragma once

#include <cmath>
#include <limits>
#include <set>
#include <utility>
#include <vector>

#include "kernels/ref/sample.h"
#include "unit/kernels/kernel_test.h"

namespace chorale {

// The lists of all rows one after the other.
template <typename T>
struct Lists {
  std::vector<int32_t> offsets{0};
  std::vector<int32_t> tokens;
  std::vector<T> values;

  void add_row(const std::vector<std::pair<int32_t, T>>& row) {
    for (const auto& [token, value] : row) {
      tokens.push_back(token);
      values.push_back(value);
    }
    offsets.push_back(static_cast<int32_t>(tokens.size()));
  }
};

inline double uniform(Random& random, double low, double high) {
  return std::uniform_real_distribution<>(low, high)(random);
}
inline bool one_in(Random& random, int n) {
  return random_int(random, 1, n) == 1;
}

inline ref::SampleRow random_row(Random& random, int64_t vocab_size) {
  const auto any_token = [&] { return static_cast<int32_t>(random_int(random, 0, vocab_size - 1)); };
  ref::SampleRow row;
  row.logits =
      random_matrix(random, 1, vocab_size, DType::f32, static_cast<float>(uniform(random, 0.1, 8))).values;
  if (one_in(random, 4))
    for (float& x : row.logits) x = std::round(x);  // many ties
  if (one_in(random, 4))
    row.logits[static_cast<size_t>(any_token())] = -std::numeric_limits<float>::infinity();
  if (one_in(random, 20))
    row.logits[static_cast<size_t>(any_token())] =
        one_in(random, 2) ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
  SampleParams& p = row.params;
  p.temperature = one_in(random, 4) ? 0 : std::exp(uniform(random, -3, 3));
  if (one_in(random, 2)) p.top_k = static_cast<int32_t>(random_int(random, -1, vocab_size + 3));
  if (one_in(random, 2)) p.top_p = uniform(random, 0.01, 1);
  if (one_in(random, 3)) p.min_p = uniform(random, 0, one_in(random, 2) ? 1 : 0.05);
  if (one_in(random, 3)) p.repetition_penalty = uniform(random, 0.5, 2);
  if (one_in(random, 3)) p.frequency_penalty = uniform(random, -1, 1);
  if (one_in(random, 3)) p.presence_penalty = uniform(random, -2, 2);
  p.seed = (uint64_t{random()} << 32) | random();
  p.position = static_cast<uint64_t>(random_int(random, 0, 5000));
  p.random_stream = static_cast<uint32_t>(random_int(random, 0, 3));
  if (one_in(random, 2)) p.num_top = static_cast<int32_t>(random_int(random, 0, 20));
  if (one_in(random, 8)) p.given_token = any_token();
  if (one_in(random, 3)) {
    for (int i = 0; i < 6; ++i)
      row.bias.emplace_back(
          any_token(), one_in(random, 3) ? -std::numeric_limits<float>::infinity() : uniform(random, -3, 3));
  }
  std::set<int32_t> counted;
  for (int i = 0; i < 12; ++i) counted.insert(any_token());
  for (const int32_t token : counted)
    row.counts.emplace_back(token, static_cast<int32_t>(random_int(random, 0, 4)));
  if (one_in(random, 3)) {
    p.is_masked = 1;
    const auto density = random_int(random, 0, 3);  // 0: nothing is left
    for (int64_t t = 0; t < vocab_size; ++t) row.allowed.push_back(random_int(random, 1, 3) <= density);
  }
  return row;
}

inline std::vector<ref::SampleRow> random_rows(Random& random, int64_t count, int64_t vocab_size) {
  std::vector<ref::SampleRow> rows;
  for (int64_t i = 0; i < count; ++i) rows.push_back(random_row(random, vocab_size));
  return rows;
}

}  // namespace chorale
