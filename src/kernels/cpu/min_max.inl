// The smaller and the larger of two sizes: std::min and std::max are the same functions for every instruction
// set.
#pragma once

#include <cstdint>

namespace chorale::CHORALE_ISA {
namespace {

inline int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}
inline int64_t larger(int64_t a, int64_t b) {
  return a > b ? a : b;
}

}  // namespace
}  // namespace chorale::CHORALE_ISA
