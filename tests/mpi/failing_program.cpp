// A program in which rank 1 comes to grief, for failures_test.py: mpi_failing_program killed|throws|hangs.
// All ranks exchange sums until then; each of the others prints one line with what it is told and how long
// after the event, and ends with status 70.
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#include <unistd.h>

#include "base/error.h"
#include "comm/mpi/mpi_world.h"

namespace chorale::comm {
namespace {

int64_t now_in_microseconds() {  // the same clock for all processes of the host
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::microseconds>(now).count();
}

void come_to_grief(MpiWorld& world, const std::string& way) {
  if (way == "killed") {
    kill(getpid(), SIGKILL);
  } else if (way == "throws") {
    world.fail(world.rank(), "out of memory");
    std::_Exit(70);
  } else {
    std::this_thread::sleep_for(std::chrono::seconds(60));
  }
}

int run(const std::string& way) {
  // mpirun ends all ranks when one has failed; here each is to say what it knows first.
  std::signal(SIGTERM, SIG_IGN);
  MpiWorld world({.time_limit = std::chrono::milliseconds(way == "hangs" ? 700 : 30'000)});
  const auto transport = world.transport();
  const auto pair = transport->split(world.rank() / 2, world.rank());
  int64_t last = 0;
  try {
    for (int step = 0;; ++step) {
      if (step == 20 && world.rank() == 1) come_to_grief(world, way);
      if (step == 20) last = now_in_microseconds();
      std::int64_t sums[2] = {1, now_in_microseconds()};
      pair->all_reduce_sum(sums);
      transport->all_reduce_sum(sums);
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  } catch (const CollectiveError& error) {
    char line[400];
    const int length = std::snprintf(line, sizeof line, "rank %d ends after %.1f ms: %s [%d] [dead: %d]\n",
                                     world.rank(), static_cast<double>(now_in_microseconds() - last) / 1000,
                                     error.what(), error.rank, world.dead_peer().value_or(-1));
    // In one piece, so that lines of several ranks do not mix.
    if (write(STDERR_FILENO, line, static_cast<size_t>(length)) < 0) return 1;
    std::_Exit(70);
  }
}

}  // namespace
}  // namespace chorale::comm

int main(int argc, char** argv) {
  try {
    return chorale::comm::run(argc > 1 ? argv[1] : "");
  } catch (const chorale::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
