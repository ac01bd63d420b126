// A program in which a rank comes to grief, for failures_test.py:
//   mpi_failing_program killed|throws|hangs|idle|stops RANK [patient]
// All ranks exchange sums until then (idle: the others wait for a broadcast of rank 0, and the rank is
// killed; stops: it waits with them, is stopped by a signal, and the broadcast comes); each of the others
// prints one line with what it is told and how long after the event, and ends with status 70. patient: mpirun
// ends all ranks when one has failed; they do not let themselves be ended before they spoke.
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
  if (way == "killed" || way == "idle") {
    kill(getpid(), SIGKILL);
  } else if (way == "throws") {
    world.fail(world.rank(), "out of memory");
    std::_Exit(70);
  } else {
    std::this_thread::sleep_for(std::chrono::seconds(60));
  }
}

// Before rank 0 has a step for the others, the victim is stopped while it waits. The other rank of its pair
// is slow, so that it is the ranks of other pairs that are tired of waiting first: for them, both have not
// come and both wait.
void wait_for_a_step(Transport& transport, int victim) {
  if (transport.rank() == victim) {
    std::thread([] {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      kill(getpid(), SIGSTOP);
    }).detach();
  }
  if (transport.rank() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(200));
  std::byte message{};
  transport.await_broadcast({&message, 1}, 0);
  if (transport.rank() == (victim ^ 1)) std::this_thread::sleep_for(std::chrono::milliseconds(200));
}

int run(const std::string& way, int victim, bool patient) {
  if (patient) std::signal(SIGTERM, SIG_IGN);
  const bool is_late = way == "hangs" || way == "stops";
  MpiWorld world({.time_limit = std::chrono::milliseconds(is_late ? 700 : 30'000)});
  const auto transport = world.transport();
  const auto pair = transport->split(world.rank() / 2, world.rank());
  int64_t last = 0;
  std::byte message{};
  try {
    for (int step = 0;; ++step) {
      if (step == 20 && way == "stops")
        wait_for_a_step(*transport, victim);
      else if (step == 20 && world.rank() == victim)
        come_to_grief(world, way);
      // A fast victim may fail while this one is still in the step before.
      if (step <= 20) last = now_in_microseconds();
      if (step == 20 && way == "idle" && world.rank() != 0) transport->await_broadcast({&message, 1}, 0);
      std::int64_t sums[2] = {1, now_in_microseconds()};
      pair->all_reduce_sum(sums);
      transport->all_reduce_sum(sums);
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  } catch (const CollectiveError& error) {
    char line[400];
    const int length = std::snprintf(line, sizeof line, "rank %d ends after %.1f ms: %s [%d %d]\n",
                                     world.rank(), static_cast<double>(now_in_microseconds() - last) / 1000,
                                     error.what(), error.rank, world.failure() ? world.failure()->rank : -1);
    // In one piece, so that lines of several ranks do not mix.
    if (write(STDERR_FILENO, line, static_cast<size_t>(length)) < 0) return 1;
    // mpirun drops what it has not read yet when the last process has ended.
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    std::_Exit(70);
  }
}

}  // namespace
}  // namespace chorale::comm

int main(int argc, char** argv) {
  try {
    return chorale::comm::run(argc > 1 ? argv[1] : "", argc > 2 ? std::atoi(argv[2]) : 1, argc > 3);
  } catch (const chorale::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
