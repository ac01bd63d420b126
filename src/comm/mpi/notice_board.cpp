#include "comm/mpi/notice_board.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <string_view>

#include "base/error.h"

namespace chorale::comm::mpi {

struct alignas(64) NoticeBoard::Entry {
  std::atomic<uint64_t> waiting;
  std::atomic<int64_t> seen;  // when it has last shown life, by the clock that all processes of a host share
  std::atomic<uint64_t> arrivals[kMaxGroups];
};

struct alignas(64) NoticeBoard::Board {
  std::atomic<int> claimed;  // by whoever writes the failure
  std::atomic<int> written;
  int rank;
  char text[500];
};

// Several processes use them.
static_assert(std::atomic<uint64_t>::is_always_lock_free && std::atomic<int64_t>::is_always_lock_free &&
              std::atomic<int>::is_always_lock_free);

namespace {

int64_t now() {
  return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

NoticeBoard::NoticeBoard(MPI_Comm world) {
  int rank = 0, world_size = 0;
  MPI_Comm_rank(world, &rank);
  MPI_Comm_size(world, &world_size);
  MPI_Comm host = MPI_COMM_NULL;
  check(MPI_Comm_split_type(world, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &host), "MPI_Comm_split_type");
  int place = 0, ranks = 0;
  MPI_Comm_rank(host, &place);
  MPI_Comm_size(host, &ranks);
  std::vector<int> members(static_cast<size_t>(ranks));
  check(MPI_Allgather(&rank, 1, MPI_INT, members.data(), 1, MPI_INT, host), "MPI_Allgather");
  places_.assign(static_cast<size_t>(world_size), -1);
  for (int i = 0; i < ranks; ++i) places_[static_cast<size_t>(members[static_cast<size_t>(i)])] = i;

  // The first rank of the host brings all memory, with room to align it.
  const size_t bytes = sizeof(Board) + static_cast<size_t>(ranks) * sizeof(Entry) + alignof(Board);
  void* base = nullptr;
  check(MPI_Win_allocate_shared(place == 0 ? static_cast<MPI_Aint>(bytes) : 0, 1, MPI_INFO_NULL, host, &base,
                                &window_),
        "MPI_Win_allocate_shared");
  MPI_Aint size = 0;
  int unit = 0;
  check(MPI_Win_shared_query(window_, 0, &size, &unit, &base), "MPI_Win_shared_query");
  // Windows lie at equal offsets in a page on all ranks, so all align alike.
  const auto address =
      (reinterpret_cast<uintptr_t>(base) + alignof(Board) - 1) / alignof(Board) * alignof(Board);
  auto* memory = reinterpret_cast<std::byte*>(address);
  if (place == 0) std::memset(memory, 0, bytes - alignof(Board));
  board_ = std::launder(reinterpret_cast<Board*>(memory));
  entries_ = std::launder(reinterpret_cast<Entry*>(memory + sizeof(Board)));
  mine_ = entries_ + place;
  show_life();
  check(MPI_Barrier(host), "MPI_Barrier");
  MPI_Comm_free(&host);
}

void NoticeBoard::free() {
  MPI_Win_free(&window_);
}

NoticeBoard::Entry* NoticeBoard::entry(int world_rank) const {
  const int place = places_[static_cast<size_t>(world_rank)];
  return place < 0 ? nullptr : entries_ + place;
}

void NoticeBoard::show_life() {
  mine_->seen.store(now(), std::memory_order_relaxed);
}

uint64_t NoticeBoard::arrive(int group) {
  show_life();
  if (group >= kMaxGroups) return 0;
  return mine_->arrivals[group].fetch_add(1, std::memory_order_relaxed) + 1;
}

void NoticeBoard::set_waiting(bool waiting) {
  mine_->waiting.store(waiting ? 1 : 0, std::memory_order_relaxed);
}

std::optional<int> NoticeBoard::silent(std::chrono::nanoseconds time) const {
  std::optional<int> found;
  int64_t oldest = now() - time.count();
  for (int rank = 0; rank < static_cast<int>(places_.size()); ++rank) {
    const Entry* other = entry(rank);
    if (other == nullptr || other == mine_) continue;
    const int64_t seen = other->seen.load(std::memory_order_relaxed);
    if (seen >= oldest) continue;
    oldest = seen;
    found = rank;
  }
  return found;
}

std::optional<int> NoticeBoard::missing(int group, const std::vector<int>& members, uint64_t arrivals) const {
  if (group >= kMaxGroups) return std::nullopt;
  std::optional<int> found;
  for (const int rank : members) {
    const Entry* other = entry(rank);
    if (other == nullptr || other->arrivals[group].load(std::memory_order_relaxed) >= arrivals) continue;
    if (other->waiting.load(std::memory_order_relaxed) == 0) return rank;
    if (!found) found = rank;
  }
  if (!found) return std::nullopt;
  for (int rank = 0; rank < static_cast<int>(places_.size()); ++rank) {
    const Entry* other = entry(rank);
    if (other != nullptr && other->waiting.load(std::memory_order_relaxed) == 0) return rank;
  }
  return found;
}

void NoticeBoard::fail(const CollectiveError& error) {
  if (board_->claimed.exchange(1) != 0) return;
  board_->rank = error.rank;
  const std::string_view text = error.what();
  const size_t length = std::min(text.size(), sizeof(board_->text) - 1);
  std::memcpy(board_->text, text.data(), length);
  board_->text[length] = '\0';
  board_->written.store(1, std::memory_order_release);
}

std::optional<CollectiveError> NoticeBoard::failure() const {
  if (board_->written.load(std::memory_order_acquire) == 0) return std::nullopt;
  return CollectiveError(board_->rank, board_->text);
}

}  // namespace chorale::comm::mpi
