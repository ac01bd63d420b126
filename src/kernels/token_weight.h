// Weights of tokens in fixed point, which are what probabilities are sums of (kernels/sample.h).
//
// Plain arithmetic, the same for the host and for kernels of a GPU.
//
// The most likely token has the weight kWeightOne, and one below about 2^-44 of it has none.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

namespace chorale {

inline constexpr double kWeightOne = 0x1p43;  // so that kMaxVocabulary tokens of this weight fit in 63 bits
inline constexpr double kNoWeight = 31.0;     // nats below the maximum where the weight rounds to zero

// exp(x) in units of 1 / kWeightOne, rounded to nearest, for -kNoWeight <= x <= 0; exactly kWeightOne at 0.
// Written in operations that compilers turn into vector instructions, and that round alike in both: exp(x) =
// 2^n exp(r) with |r| <= ln(2) / 2, and the Taylor series of exp(r), whose relative error of 1e-14 is far
// below the rounding to fixed point.
constexpr uint64_t token_weight(double x) {
  constexpr double kLog2E = 1.4426950408889634;
  constexpr double kLn2 = 0.6931471805599453;
  constexpr double kRoundToInteger = 0x1.8p52;  // adding it leaves the nearest integer in the low bits
  const double shifted = x * kLog2E + kRoundToInteger;
  const double r = x - (shifted - kRoundToInteger) * kLn2;
  // Horner's scheme, written out: a loop over the coefficients would keep the loop over tokens from becoming
  // vectors.
  double series = r * (1.0 / 39916800) + 1.0 / 3628800;
  series = series * r + 1.0 / 362880;
  series = series * r + 1.0 / 40320;
  series = series * r + 1.0 / 5040;
  series = series * r + 1.0 / 720;
  series = series * r + 1.0 / 120;
  series = series * r + 1.0 / 24;
  series = series * r + 1.0 / 6;
  series = series * r + 1.0 / 2;
  series = series * r + 1.0;
  series = series * r + 1.0;
  const uint64_t power = std::bit_cast<uint64_t>(shifted) << 52;  // n, in the place of the exponent
  const double scaled = std::bit_cast<double>(std::bit_cast<uint64_t>(series) + power) * kWeightOne;
  constexpr uint64_t kMantissa = (uint64_t{1} << 52) - 1;
  return std::bit_cast<uint64_t>(scaled + 0x1p52) & kMantissa;
}

// What token_weight() takes, of a token of this logit. The division comes last, so that the most likely token
// gets 0 at any temperature.
constexpr double weight_exponent(float logit, float max, double temperature) {
  const double x = (double{logit} - double{max}) / temperature;
  return x > -kNoWeight ? x : -kNoWeight;
}

// floor(random / 2^64 * mass): uniform in [0, mass).
constexpr uint64_t scale_random(uint64_t random, uint64_t mass) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<uint64_t>((Wide{random} * mass) >> 64);
}

// The least mass that is at least a fraction top_p of the total.
constexpr uint64_t nucleus_mass(double top_p, uint64_t total) {
  if (top_p >= 1) return total;
  const double wanted = top_p * static_cast<double>(total);
  if (wanted >= static_cast<double>(total)) return total;
  const auto whole = static_cast<uint64_t>(wanted);
  return std::max<uint64_t>(static_cast<double>(whole) < wanted ? whole + 1 : whole, 1);
}

}  // namespace chorale
