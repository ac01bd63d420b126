#include "comm/mpi/context.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>
#include <sched.h>

#include "base/error.h"

namespace chorale::comm::mpi {
namespace {

using Clock = std::chrono::steady_clock;

// How long a rank gives way to others before it sleeps. By the clock, because whoever gets the core may keep
// it for milliseconds.
constexpr std::chrono::nanoseconds kYieldTime = std::chrono::microseconds(200);
constexpr std::chrono::nanoseconds kShortestPause = std::chrono::microseconds(20);

}  // namespace

void Context::check_usable() {
  CHORALE_CHECK(!closed_, "an operation after the end of MPI");
  if (failure_) throw *failure_;
}

void Context::check(int code, const char* operation) {
  try {
    mpi::check(code, operation);
  } catch (const CollectiveError& error) {
    fail(look_for_failure({}).value_or(error));
  }
}

void Context::wait(std::span<MPI_Request> requests, const Call& call) {
  const Clock::time_point start = Clock::now();
  for (int i = 0; i < spins_; ++i)
    if (test(requests)) return;
  while (Clock::now() - start < kYieldTime) {
    if (test(requests)) return;
    sched_yield();
  }
  board_.set_waiting(true);
  sleep_and_wait(requests, call);
  board_.set_waiting(false);
}

bool Context::test(std::span<MPI_Request> requests) {
  int done = 0;
  check(MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE),
        "MPI_Testall");
  return done != 0;
}

// A pause is an eighth of the time waited so far, so it delays the operation by no more than that; and it is
// cut short when a peer dies.
void Context::sleep_and_wait(std::span<MPI_Request> requests, const Call& call) {
  const bool limited = call.limited && options_.time_limit.count() > 0;
  const Clock::time_point start = Clock::now();
  for (;;) {
    const std::chrono::nanoseconds waited = Clock::now() - start;
    const auto failure = look_for_failure(std::clamp(waited / 8, kShortestPause, call.longest_pause));
    if (test(requests)) return;
    board_.show_life();
    if (failure) fail(*failure);
    if (limited && waited > options_.time_limit) fail(late(call));
  }
}

// The board first: who ended its process because of another one's failure has written there whose it was.
std::optional<CollectiveError> Context::look_for_failure(std::chrono::nanoseconds time) const {
  const std::optional<int> dead = peers_.dead_peer(time);
  if (auto known = board_.failure()) return known;
  if (dead) return rank_failure(*dead, "its process has ended");
  return std::nullopt;
}

// Who waits looks around every few milliseconds, so half of the time limit without a sign of life tells who
// does not.
CollectiveError Context::late(const Call& call) {
  const double seconds = std::chrono::duration<double>(options_.time_limit).count();
  std::optional<int> rank = board_.silent(options_.time_limit / 2);
  if (!rank) rank = board_.missing(call.group, *call.members, call.arrivals);
  if (rank)
    return rank_failure(*rank,
                        fmt::format("it did not come to a collective operation within {:g} s", seconds));
  return rank_failure(-1, fmt::format("a collective operation was not completed within {:g} s", seconds));
}

void Context::fail(CollectiveError error) {
  board_.fail(error);
  failure_ = std::move(error);
  throw *failure_;
}

}  // namespace chorale::comm::mpi
