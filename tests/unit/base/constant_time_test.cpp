#include "base/constant_time.h"

#include <string>

#include <gtest/gtest.h>

namespace chorale {
namespace {

TEST(EqualInConstantTime, ComparesEveryByte) {
  EXPECT_TRUE(equal_in_constant_time("", ""));
  EXPECT_FALSE(equal_in_constant_time("", "a"));
  const std::string secret("a secret\0with every \xff kind of byte", 34);
  EXPECT_TRUE(equal_in_constant_time(secret, std::string(secret)));
  EXPECT_FALSE(equal_in_constant_time(secret, secret + "x"));
  EXPECT_FALSE(equal_in_constant_time(secret, secret.substr(1)));
  for (size_t i = 0; i < secret.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string other = secret;
      other[i] = static_cast<char>(other[i] ^ (1 << bit));
      EXPECT_FALSE(equal_in_constant_time(secret, other)) << i << " " << bit;
    }
  }
}

}  // namespace
}  // namespace chorale
