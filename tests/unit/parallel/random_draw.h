// Random numbers for property tests: the same in every run, whatever the standard library.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <random>

namespace chorale::parallel {

class RandomDraw {
 public:
  explicit RandomDraw(uint32_t seed) : random_(seed) {}

  int below(int n) { return static_cast<int>(random_() % static_cast<uint32_t>(n)); }
  int between(int least, int most) { return least + below(most - least + 1); }
  bool chance(int one_in) { return below(one_in) == 0; }
  int one_of(std::initializer_list<int> values) {
    return values.begin()[below(static_cast<int>(values.size()))];
  }

 private:
  std::mt19937 random_;
};

}  // namespace chorale::parallel
