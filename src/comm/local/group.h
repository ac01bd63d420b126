// How the ranks of a LocalWorld meet: what all groups of a world share, and the meeting point of one group.
//
// An operation has two kinds of barrier. At the first, meet(), a rank shows where its data lies and waits for
// the others; here it can fail. Once all have met, they read each other's memory, which ends by itself; so
// the barriers after it, finish(), wait without fail. Otherwise a rank that threw could free a buffer that
// another one still reads.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "comm/communicator.h"

namespace chorale::comm::local {

class Group;

// What the groups of a world share. Thread-safe.
class World {
 public:
  World(int size, std::chrono::milliseconds time_limit);

  int size() const { return static_cast<int>(waiting_.size()); }
  std::chrono::milliseconds time_limit() const { return time_limit_; }
  int spins() const { return spins_; }

  void fail(int world_rank, std::string_view reason);
  std::optional<CollectiveError> failure() const;

  // A group is told of failures between the two.
  void add(Group& group);
  void remove(Group& group);

  // Whether a rank waits for others, in any group: who does is not the one that keeps the rest waiting.
  std::atomic<bool>& waiting(int world_rank) { return waiting_[static_cast<size_t>(world_rank)]; }

 private:
  const std::chrono::milliseconds time_limit_;
  const int spins_;
  std::vector<std::atomic<bool>> waiting_;
  mutable std::mutex mutex_;
  std::optional<CollectiveError> failure_;
  std::vector<Group*> groups_;
};

// What a rank shows the others during an operation; written before meet() and left alone until the end.
struct Shown {
  const std::byte* input = nullptr;
  size_t size = 0;  // bytes
  std::span<const int64_t> sizes;
  // For split.
  int color = 0;
  int key = 0;
  std::shared_ptr<Group> made;
};

class Group {
 public:
  // Has room for `capacity` members, of which assign() tells.
  Group(std::shared_ptr<World> world, size_t capacity);
  ~Group();
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  // The members as ranks of the world. Before the first operation; does not allocate.
  void assign(std::span<const int> world_ranks);

  int size() const { return size_; }
  int world_rank(int member) const { return members_[static_cast<size_t>(member)].world_rank; }
  const std::shared_ptr<World>& world() const { return world_; }
  Shown& shown(int member) { return members_[static_cast<size_t>(member)].shown; }

  // Waits for all members. Throws CollectiveError when a rank of the world fails before they have all come,
  // and, if limited, names one that has not come in time.
  void meet(int member, bool limited = true);
  // Waits for all members, who have met.
  void finish(int member);

  // For World: whoever waits in meet() or comes to it throws.
  void fail();

 private:
  struct alignas(64) Member {
    std::atomic<uint64_t> meetings{0};  // that it has come to
    int world_rank = 0;
    Shown shown;
  };
  enum class Passage { open, failed };

  bool arrive();
  Passage wait(int member, uint32_t old, bool can_fail, bool limited);
  std::optional<Passage> poll(uint32_t old, bool can_fail) const;
  void advance_and_wake(uint32_t by);
  void report_missing(int member);

  const std::shared_ptr<World> world_;
  const size_t capacity_;
  int size_ = 0;
  std::unique_ptr<Member[]> members_;
  // Bit 0: the world has failed. Above: how many barriers have opened. One word, so that either all members
  // pass a meeting or none does.
  alignas(64) std::atomic<uint32_t> word_{0};
  std::atomic<int> sleepers_{0};
  alignas(64) std::atomic<int> arrived_{0};
};

}  // namespace chorale::comm::local
