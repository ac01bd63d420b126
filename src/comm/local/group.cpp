#include "comm/local/group.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>
#include <sched.h>

#include "base/error.h"
#include "base/thread_pool.h"
#include "comm/local/futex.h"

namespace chorale::comm::local {
namespace {

constexpr uint32_t kFailed = 1;
constexpr uint32_t kOneBarrier = 2;

// Some tens of microseconds, where every rank has a core of its own: longer than ranks that do equal work
// arrive apart.
constexpr int kSpins = 1000;
// Without a core of its own a rank gives way to one that has still to come, which is cheaper than to sleep
// and be woken; but not for long, because somebody else may need the core.
constexpr int kYields = 16;
// For a rank that has come, but has not opened the barrier yet.
constexpr std::chrono::milliseconds kGrace{10};

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  sched_yield();
#endif
}

bool opened_since(uint32_t word, uint32_t old) {
  return ((word ^ old) & ~kFailed) != 0;
}

}  // namespace

World::World(int size, std::chrono::milliseconds time_limit)
    : time_limit_(time_limit),
      spins_(size <= available_cores() ? kSpins : 0),
      waiting_(static_cast<size_t>(size)) {}

void World::fail(int world_rank, std::string_view reason) {
  const std::lock_guard lock(mutex_);
  if (failure_) return;
  failure_ = rank_failure(world_rank, reason);
  for (Group* group : groups_) group->fail();
}

std::optional<CollectiveError> World::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

void World::add(Group& group) {
  const std::lock_guard lock(mutex_);
  groups_.push_back(&group);
  if (failure_) group.fail();
}

void World::remove(Group& group) {
  const std::lock_guard lock(mutex_);
  std::erase(groups_, &group);
}

Group::Group(std::shared_ptr<World> world, size_t capacity)
    : world_(std::move(world)), capacity_(capacity), members_(std::make_unique<Member[]>(capacity)) {
  world_->add(*this);
}

Group::~Group() {
  world_->remove(*this);
}

void Group::assign(std::span<const int> world_ranks) {
  CHORALE_CHECK(!world_ranks.empty() && world_ranks.size() <= capacity_);
  for (size_t i = 0; i < world_ranks.size(); ++i) members_[i].world_rank = world_ranks[i];
  size_ = static_cast<int>(world_ranks.size());
}

void Group::meet(int member, bool limited) {
  members_[static_cast<size_t>(member)].meetings.fetch_add(1, std::memory_order_relaxed);
  uint32_t word = word_.load(std::memory_order_acquire);
  Passage passage = Passage::open;
  if ((word & kFailed) != 0) {
    passage = Passage::failed;
  } else if (!arrive()) {
    passage = wait(member, word, true, limited);
  } else {
    // The last one opens the barrier, unless the world has failed by now: then nobody passes.
    while ((word & kFailed) == 0 && !word_.compare_exchange_weak(word, word + kOneBarrier)) {
    }
    if ((word & kFailed) != 0)
      passage = Passage::failed;
    else if (sleepers_.load() > 0)
      futex_wake_all(word_);
  }
  if (passage == Passage::failed) throw world_->failure().value();
}

void Group::finish(int member) {
  const uint32_t word = word_.load(std::memory_order_acquire);
  if (arrive())
    advance_and_wake(kOneBarrier);
  else
    wait(member, word, false, false);
}

void Group::fail() {
  word_.fetch_or(kFailed);
  futex_wake_all(word_);
}

// Whether this rank is the last to come. The counter starts again before the barrier opens, so that nobody
// comes to the next one too early.
bool Group::arrive() {
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 < size_) return false;
  arrived_.store(0, std::memory_order_relaxed);
  return true;
}

// A sleeper counts itself before the kernel compares the word, and the word is changed before the sleepers
// are counted, so one of the two sees the other.
void Group::advance_and_wake(uint32_t by) {
  word_.fetch_add(by);
  if (sleepers_.load() > 0) futex_wake_all(word_);
}

std::optional<Group::Passage> Group::poll(uint32_t old, bool can_fail) const {
  const uint32_t word = word_.load(std::memory_order_acquire);
  if (opened_since(word, old)) return Passage::open;
  if (can_fail && (word & kFailed) != 0) return Passage::failed;
  return std::nullopt;
}

Group::Passage Group::wait(int member, uint32_t old, bool can_fail, bool limited) {
  for (int i = 0; i < world_->spins() + kYields; ++i) {
    if (const auto passage = poll(old, can_fail)) return *passage;
    i < world_->spins() ? relax() : static_cast<void>(sched_yield());
  }
  using Clock = std::chrono::steady_clock;
  limited = limited && world_->time_limit().count() > 0;
  Clock::time_point deadline = Clock::now() + world_->time_limit();
  std::atomic<bool>& waiting = world_->waiting(world_rank(member));
  waiting.store(true, std::memory_order_relaxed);
  std::optional<Passage> passage;
  while (!passage) {
    std::chrono::nanoseconds left{0};
    if (limited) {
      left = deadline - Clock::now();
      if (left.count() <= 0) {
        report_missing(member);
        left = kGrace;
        deadline = Clock::now() + kGrace;
      }
    }
    sleepers_.fetch_add(1);
    const uint32_t word = word_.load();
    if (!opened_since(word, old) && !(can_fail && (word & kFailed) != 0)) futex_wait(word_, word, left);
    sleepers_.fetch_sub(1, std::memory_order_relaxed);
    passage = poll(old, can_fail);
  }
  waiting.store(false, std::memory_order_relaxed);
  return *passage;
}

// Fails the world in the name of the one who keeps this group waiting: a member that has not come and does
// not itself wait in another group; else whoever waits for nobody; else a member that has not come.
void Group::report_missing(int member) {
  const auto meetings = [&](int m) {
    return members_[static_cast<size_t>(m)].meetings.load(std::memory_order_relaxed);
  };
  const auto waits = [&](int rank) { return world_->waiting(rank).load(std::memory_order_relaxed); };
  int missing = -1;
  for (int m = 0; m < size_; ++m) {
    if (meetings(m) == meetings(member)) continue;
    if (missing < 0) missing = world_rank(m);
    if (!waits(world_rank(m))) {
      missing = world_rank(m);
      break;
    }
  }
  if (missing < 0) return;  // all have come; the last one is about to open the barrier
  for (int r = 0; r < world_->size() && waits(missing); ++r)
    if (!waits(r)) missing = r;
  world_->fail(missing, fmt::format("it did not come to a collective operation within {:g} s",
                                    std::chrono::duration<double>(world_->time_limit()).count()));
}

}  // namespace chorale::comm::local
