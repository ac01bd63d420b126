#include "kernels/ref/norm_order.h"

#include <cmath>

#include "kernels/cuda/norm_order.h"

namespace chorale::ref {
namespace {

using cuda::kWarp;

// The sum that every thread of a warp ends with.
float exchange(std::vector<float> sums) {
  sums.resize(kWarp);
  for (size_t bit = kWarp / 2; bit > 0; bit /= 2) {
    const std::vector<float> before = sums;
    for (size_t i = 0; i < kWarp; ++i) sums[i] = before[i] + before[i ^ bit];
  }
  return sums[0];
}

float inverse_rms(float squares, int64_t columns, float eps) {
  return 1.0F / std::sqrt(squares / static_cast<float>(columns) + eps);
}

float row_squares(const Matrix& x, int64_t t) {
  const int64_t threads = cuda::norm_threads(x.columns);
  std::vector<float> warps;
  for (int64_t warp = 0; warp < threads / kWarp; ++warp) {
    std::vector<float> lanes(kWarp);
    for (int64_t lane = 0; lane < kWarp; ++lane) {
      float& sum = lanes[static_cast<size_t>(lane)];
      for (int64_t run = (warp * kWarp + lane) * cuda::kNormRun; run < x.columns;
           run += threads * cuda::kNormRun) {
        for (int64_t c = run; c < std::min(x.columns, run + cuda::kNormRun); ++c)
          sum = std::fma(x.at(t, c), x.at(t, c), sum);
      }
    }
    warps.push_back(exchange(lanes));
  }
  return warps.size() == 1 ? warps[0] : exchange(warps);
}

float head_squares(const Matrix& x, int64_t t, int64_t head, int64_t head_dim) {
  const int64_t half = head_dim / 2;
  const int64_t length = cuda::head_run(head_dim);
  std::vector<float> lanes(kWarp);
  for (int64_t lane = 0; lane < kWarp; ++lane) {
    float& sum = lanes[static_cast<size_t>(lane)];
    for (int64_t run = lane * length; run < half; run += kWarp * length) {
      for (int64_t first : {run, half + run})
        for (int64_t c = first; c < first + length; ++c)
          sum = std::fma(x.at(t, head + c), x.at(t, head + c), sum);
    }
  }
  return exchange(lanes);
}

}  // namespace

Matrix rms_norm_in_order(const Matrix& x, const Matrix& weight, float eps) {
  Matrix out(x.rows, x.columns);
  for (int64_t t = 0; t < x.rows; ++t) {
    const float scale = inverse_rms(row_squares(x, t), x.columns, eps);
    for (int64_t c = 0; c < x.columns; ++c) out.at(t, c) = weight.at(0, c) * (x.at(t, c) * scale);
  }
  return out;
}

Matrix norm_rope_in_order(const Matrix& x, const Matrix& weight, float eps, const Matrix& cos_sin) {
  const int64_t head_dim = weight.columns;
  const int64_t half = head_dim / 2;
  Matrix out(x.rows, x.columns);
  for (int64_t t = 0; t < x.rows; ++t) {
    for (int64_t head = 0; head < x.columns; head += head_dim) {
      const float scale = inverse_rms(head_squares(x, t, head, head_dim), head_dim, eps);
      for (int64_t i = 0; i < half; ++i) {
        const float a = weight.at(0, i) * (x.at(t, head + i) * scale);
        const float b = weight.at(0, half + i) * (x.at(t, head + half + i) * scale);
        const float cosine = cos_sin.at(t, i);
        const float sine = cos_sin.at(t, half + i);
        out.at(t, head + i) = a * cosine - b * sine;
        out.at(t, head + half + i) = b * cosine + a * sine;
      }
    }
  }
  return out;
}

}  // namespace chorale::ref
