#include "comm/local/local_transport.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "base/error.h"

namespace chorale::comm::local {
namespace {

// Values that are added before the next ones: a piece stays in the first-level cache while all ranks' values
// are added to it.
constexpr size_t kPiece = 1024;

void copy(std::byte* to, const std::byte* from, size_t bytes) {
  if (bytes > 0) std::memmove(to, from, bytes);
}

// Sums wrap around, as those of two's complement do.
void add(int64_t* sums, const int64_t* values, size_t n) {
  for (size_t i = 0; i < n; ++i)
    sums[i] = static_cast<int64_t>(static_cast<uint64_t>(sums[i]) + static_cast<uint64_t>(values[i]));
}

size_t sum_of(std::span<const int64_t> sizes) {
  return static_cast<size_t>(std::accumulate(sizes.begin(), sizes.end(), int64_t{0}));
}

}  // namespace

void LocalTransport::show_and_meet(std::span<const std::byte> input, std::span<const int64_t> sizes,
                                   bool limited) {
  Shown& shown = group_->shown(rank_);
  shown.input = input.data();
  shown.size = input.size();
  shown.sizes = sizes;
  group_->meet(rank_, limited);
}

const int64_t* LocalTransport::values_of(int member) const {
  return reinterpret_cast<const int64_t*>(group_->shown(member).input);
}

void LocalTransport::barrier() {
  group_->meet(rank_);
}

void LocalTransport::broadcast(std::span<std::byte> data, int root) {
  broadcast(data, root, true);
}

void LocalTransport::await_broadcast(std::span<std::byte> data, int root) {
  broadcast(data, root, rank_ == root);
}

void LocalTransport::broadcast(std::span<std::byte> data, int root, bool limited) {
  CHORALE_CHECK(root >= 0 && root < size(), "root {} of {}", root, size());
  show_and_meet(data, {}, limited);
  const Shown& source = group_->shown(root);
  CHORALE_CHECK(source.size == data.size(), "broadcast of {} bytes into {}", source.size, data.size());
  if (rank_ != root) copy(data.data(), source.input, data.size());
  group_->finish(rank_);
}

// Each rank adds up one part, in its own memory, where nobody else looks at that part before it is complete.
void LocalTransport::all_reduce_sum(std::span<int64_t> values) {
  show_and_meet(std::as_bytes(values));
  const auto ranks = static_cast<size_t>(size());
  const auto begin_of = [&](size_t r) { return values.size() * r / ranks; };
  const auto me = static_cast<size_t>(rank_);
  for (size_t begin = begin_of(me); begin < begin_of(me + 1); begin += kPiece) {
    const size_t n = std::min(kPiece, begin_of(me + 1) - begin);
    for (int r = 0; r < size(); ++r) {
      CHORALE_CHECK(group_->shown(r).size == values.size_bytes(), "sums of {} and {} bytes",
                    group_->shown(r).size, values.size_bytes());
      if (r != rank_) add(values.data() + begin, values_of(r) + begin, n);
    }
  }
  group_->finish(rank_);
  for (int r = 0; r < size(); ++r) {
    const size_t begin = begin_of(static_cast<size_t>(r)), end = begin_of(static_cast<size_t>(r) + 1);
    if (r != rank_) std::copy(values_of(r) + begin, values_of(r) + end, values.data() + begin);
  }
  group_->finish(rank_);
}

void LocalTransport::reduce_scatter_sum(std::span<const int64_t> values, std::span<const int64_t> counts,
                                        std::span<int64_t> part) {
  const auto me = static_cast<size_t>(rank_);
  CHORALE_CHECK(counts.size() == static_cast<size_t>(size()) && values.size() == sum_of(counts) &&
                part.size() == static_cast<size_t>(counts[me]));
  show_and_meet(std::as_bytes(values));
  const size_t first = sum_of(counts.first(me));
  for (size_t begin = 0; begin < part.size(); begin += kPiece) {
    const size_t n = std::min(kPiece, part.size() - begin);
    std::memmove(part.data() + begin, values.data() + first + begin, n * sizeof(int64_t));
    for (int r = 0; r < size(); ++r) {
      CHORALE_CHECK(group_->shown(r).size == values.size_bytes(), "sums of {} and {} bytes",
                    group_->shown(r).size, values.size_bytes());
      if (r != rank_) add(part.data() + begin, values_of(r) + first + begin, n);
    }
  }
  group_->finish(rank_);
}

// All ranks' inputs, one after the other.
void LocalTransport::collect(std::span<const int64_t> sizes, std::span<std::byte> all) const {
  std::byte* to = all.data();
  for (int r = 0; r < size(); ++r) {
    const Shown& source = group_->shown(r);
    CHORALE_CHECK(source.size == static_cast<size_t>(sizes[static_cast<size_t>(r)]), "{} bytes, not {}",
                  source.size, sizes[static_cast<size_t>(r)]);
    copy(to, source.input, source.size);
    to += source.size;
  }
}

void LocalTransport::all_gather(std::span<const std::byte> part, std::span<const int64_t> sizes,
                                std::span<std::byte> all) {
  CHORALE_CHECK(sizes.size() == static_cast<size_t>(size()) && all.size() == sum_of(sizes));
  show_and_meet(part);
  collect(sizes, all);
  group_->finish(rank_);
}

void LocalTransport::gather(std::span<const std::byte> part, std::span<const int64_t> sizes,
                            std::span<std::byte> all, int root) {
  CHORALE_CHECK(sizes.size() == static_cast<size_t>(size()) && root >= 0 && root < size());
  CHORALE_CHECK(rank_ != root || all.size() == sum_of(sizes));
  show_and_meet(part);
  if (rank_ == root) collect(sizes, all);
  group_->finish(rank_);
}

void LocalTransport::all_to_all(std::span<const std::byte> send, std::span<const int64_t> sent_sizes,
                                std::span<std::byte> receive, std::span<int64_t> received_sizes) {
  const auto me = static_cast<size_t>(rank_), ranks = static_cast<size_t>(size());
  CHORALE_CHECK(sent_sizes.size() == ranks && received_sizes.size() == ranks &&
                send.size() == sum_of(sent_sizes));
  show_and_meet(send, sent_sizes);
  size_t at = 0;
  for (size_t r = 0; r < ranks; ++r) {
    const Shown& source = group_->shown(static_cast<int>(r));
    received_sizes[r] = source.sizes[me];
    const auto bytes = static_cast<size_t>(received_sizes[r]);
    CHORALE_CHECK(bytes <= receive.size() - at, "no room for {} bytes from rank {}", bytes, r);
    copy(receive.data() + at, source.input + sum_of(source.sizes.first(me)), bytes);
    at += bytes;
  }
  group_->finish(rank_);
}

// Every rank brings an empty group, because between the barriers nothing may throw; those with one color take
// that of their first member.
std::shared_ptr<Transport> LocalTransport::split(int color, int key) {
  CHORALE_CHECK(color >= 0, "color {}", color);
  const auto ranks = static_cast<size_t>(size());
  std::vector<int> members, world_ranks;
  members.reserve(ranks);
  world_ranks.reserve(ranks);
  Shown& mine = group_->shown(rank_);
  mine.made = std::make_shared<Group>(group_->world(), ranks);
  mine.color = color;
  mine.key = key;
  group_->meet(rank_);
  for (int r = 0; r < size(); ++r)
    if (group_->shown(r).color == color) members.push_back(r);
  std::sort(members.begin(), members.end(), [&](int a, int b) {
    return std::pair(group_->shown(a).key, a) < std::pair(group_->shown(b).key, b);
  });
  if (members.front() == rank_) {
    for (const int r : members) world_ranks.push_back(group_->world_rank(r));
    mine.made->assign(world_ranks);
  }
  group_->finish(rank_);
  std::shared_ptr<Group> group = group_->shown(members.front()).made;
  group_->finish(rank_);
  mine.made.reset();
  const auto place = std::find(members.begin(), members.end(), rank_);
  return std::make_shared<LocalTransport>(std::move(group), static_cast<int>(place - members.begin()));
}

}  // namespace chorale::comm::local
