// A build without MPI says so, instead of doing something else.
#include <gtest/gtest.h>

#include "base/error.h"
#include "comm/mpi/mpi_world.h"

namespace chorale::comm {
namespace {

TEST(NoMpi, SaysSo) {
  try {
    MpiWorld world;
    FAIL() << "there is no MPI";
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).find("this build has no MPI; "), 0U) << error.what();
  }
}

}  // namespace
}  // namespace chorale::comm
