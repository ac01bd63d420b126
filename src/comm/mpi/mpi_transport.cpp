#include "comm/mpi/mpi_transport.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/error.h"

namespace chorale::comm::mpi {
namespace {

constexpr int kTag = 1;
// Sums of parts go in slices, which bounds the memory for the other ranks' values.
constexpr size_t kSliceValues = size_t{1} << 17;
constexpr std::chrono::milliseconds kIdlePause{2};
// Bytes up to which the number of messages counts for more than what they hold.
constexpr size_t kShortSum = 16'384;

size_t sum_of(std::span<const int64_t> sizes) {
  return static_cast<size_t>(std::accumulate(sizes.begin(), sizes.end(), int64_t{0}));
}

// Sums wrap around, as those of two's complement do.
void add(int64_t* sums, const int64_t* values, size_t n) {
  for (size_t i = 0; i < n; ++i)
    sums[i] = static_cast<int64_t>(static_cast<uint64_t>(sums[i]) + static_cast<uint64_t>(values[i]));
}

void copy(std::byte* to, std::span<const std::byte> from) {
  if (!from.empty()) std::memmove(to, from.data(), from.size());
}

}  // namespace

MpiTransport::MpiTransport(std::shared_ptr<Context> context, MPI_Comm comm, int group,
                           std::vector<int> members)
    : context_(std::move(context)), comm_(comm), group_(group), members_(std::move(members)) {
  context_->check(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  context_->check(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
  requests_.reserve(2 * members_.size());
  shares_.resize(members_.size());
}

Call MpiTransport::arrive() {
  context_->check_usable();
  return {.group = group_, .members = &members_, .arrivals = context_->board().arrive(group_)};
}

void MpiTransport::send(std::span<const std::byte> data, int to) {
  while (!data.empty()) {
    const size_t n = std::min(data.size(), context_->piece_bytes());
    MPI_Request& request = requests_.emplace_back(MPI_REQUEST_NULL);
    context_->check(MPI_Isend(data.data(), static_cast<int>(n), MPI_BYTE, to, kTag, comm_, &request),
                    "MPI_Isend");
    data = data.subspan(n);
  }
}

void MpiTransport::receive(std::span<std::byte> data, int from) {
  while (!data.empty()) {
    const size_t n = std::min(data.size(), context_->piece_bytes());
    MPI_Request& request = requests_.emplace_back(MPI_REQUEST_NULL);
    context_->check(MPI_Irecv(data.data(), static_cast<int>(n), MPI_BYTE, from, kTag, comm_, &request),
                    "MPI_Irecv");
    data = data.subspan(n);
  }
}

void MpiTransport::wait(const Call& call) {
  context_->wait(requests_, call);
  requests_.clear();
}

template <typename Start>
void MpiTransport::in_pieces(size_t bytes, const Call& call, const char* operation, const Start& start) {
  for (size_t at = 0; at < bytes; at += context_->piece_bytes()) {
    const size_t n = std::min(bytes - at, context_->piece_bytes());
    context_->check(start(at, static_cast<int>(n), &requests_.emplace_back(MPI_REQUEST_NULL)), operation);
  }
  wait(call);
}

void MpiTransport::barrier() {
  const Call call = arrive();
  context_->check(MPI_Ibarrier(comm_, &requests_.emplace_back(MPI_REQUEST_NULL)), "MPI_Ibarrier");
  wait(call);
}

void MpiTransport::broadcast(std::span<std::byte> data, int root) {
  broadcast(data, root, true);
}

void MpiTransport::await_broadcast(std::span<std::byte> data, int root) {
  broadcast(data, root, rank_ == root);
}

// Here a rank waits for the next step when there are no requests, so it takes longer naps.
void MpiTransport::broadcast(std::span<std::byte> data, int root, bool limited) {
  CHORALE_CHECK(root >= 0 && root < size(), "root {} of {}", root, size());
  Call call = arrive();
  call.limited = limited;
  call.longest_pause = kIdlePause;
  in_pieces(data.size(), call, "MPI_Ibcast", [&](size_t at, int n, MPI_Request* request) {
    return MPI_Ibcast(data.data() + at, n, MPI_BYTE, root, comm_, request);
  });
}

void MpiTransport::all_reduce_sum(std::span<int64_t> values) {
  const Call call = arrive();
  if (values.size_bytes() <= std::min(kShortSum, context_->piece_bytes())) {
    in_pieces(values.size_bytes(), call, "MPI_Iallreduce", [&](size_t, int, MPI_Request* request) {
      return MPI_Iallreduce(MPI_IN_PLACE, values.data(), static_cast<int>(values.size()), MPI_UINT64_T,
                            MPI_SUM, comm_, request);
    });
    return;
  }
  const auto me = static_cast<size_t>(rank_), ranks = members_.size();
  const auto begin_of = [&](size_t r) { return values.size() * r / ranks; };
  for (size_t r = 0; r < ranks; ++r) shares_[r] = static_cast<int64_t>(begin_of(r + 1) - begin_of(r));
  const std::span<int64_t> part = values.subspan(begin_of(me), static_cast<size_t>(shares_[me]));
  sum_parts(values, shares_, part, call);
  for (int64_t& share : shares_) share *= static_cast<int64_t>(sizeof(int64_t));
  exchange_parts(std::as_bytes(part), shares_, std::as_writable_bytes(values), call);
}

void MpiTransport::reduce_scatter_sum(std::span<const int64_t> values, std::span<const int64_t> counts,
                                      std::span<int64_t> part) {
  CHORALE_CHECK(counts.size() == members_.size() && values.size() == sum_of(counts) &&
                part.size() == static_cast<size_t>(counts[static_cast<size_t>(rank_)]));
  sum_parts(values, counts, part, arrive());
}

// Every rank sends each other rank its part and adds up what comes for its own, which may lie in `values`.
void MpiTransport::sum_parts(std::span<const int64_t> values, std::span<const int64_t> counts,
                             std::span<int64_t> part, const Call& call) {
  const auto me = static_cast<size_t>(rank_), ranks = members_.size();
  copy(std::as_writable_bytes(part).data(),
       std::as_bytes(values.subspan(sum_of(counts.first(me)), part.size())));
  partial_sums_.resize(std::max(partial_sums_.size(), (ranks - 1) * std::min(part.size(), kSliceValues)));
  const auto longest = static_cast<size_t>(*std::max_element(counts.begin(), counts.end()));
  for (size_t begin = 0; begin < longest; begin += kSliceValues) {
    const auto slice_of = [&](size_t r) {
      const auto count = static_cast<size_t>(counts[r]);
      return count > begin ? std::min(count - begin, kSliceValues) : 0;
    };
    const size_t mine = slice_of(me);
    std::byte* room = std::as_writable_bytes(std::span(partial_sums_)).data();
    for (size_t i = 1; i < ranks; ++i)
      receive({room + (i - 1) * mine * sizeof(int64_t), mine * sizeof(int64_t)},
              static_cast<int>((me + ranks - i) % ranks));
    for (size_t i = 1; i < ranks; ++i) {
      const size_t to = (me + i) % ranks;
      const size_t first = sum_of(counts.first(to));
      send(std::as_bytes(values.subspan(first + (slice_of(to) > 0 ? begin : 0), slice_of(to))),
           static_cast<int>(to));
    }
    wait(call);
    for (size_t i = 1; i < ranks && mine > 0; ++i)
      add(part.data() + begin, partial_sums_.data() + (i - 1) * mine, mine);
  }
}

// All parts, one after the other; this rank's own is at hand.
void MpiTransport::receive_all(std::span<const int64_t> sizes, std::span<const std::byte> own,
                               std::span<std::byte> all) {
  size_t at = 0;
  for (size_t r = 0; r < sizes.size(); ++r) {
    const auto bytes = static_cast<size_t>(sizes[r]);
    if (static_cast<int>(r) == rank_)
      copy(all.data() + at, own);
    else
      receive(all.subspan(at, bytes), static_cast<int>(r));
    at += bytes;
  }
}

void MpiTransport::all_gather(std::span<const std::byte> part, std::span<const int64_t> sizes,
                              std::span<std::byte> all) {
  CHORALE_CHECK(sizes.size() == members_.size() && all.size() == sum_of(sizes) &&
                part.size() == static_cast<size_t>(sizes[static_cast<size_t>(rank_)]));
  exchange_parts(part, sizes, all, arrive());
}

void MpiTransport::exchange_parts(std::span<const std::byte> part, std::span<const int64_t> sizes,
                                  std::span<std::byte> all, const Call& call) {
  const auto me = static_cast<size_t>(rank_), ranks = members_.size();
  receive_all(sizes, part, all);
  for (size_t i = 1; i < ranks; ++i) send(part, static_cast<int>((me + i) % ranks));
  wait(call);
}

void MpiTransport::gather(std::span<const std::byte> part, std::span<const int64_t> sizes,
                          std::span<std::byte> all, int root) {
  CHORALE_CHECK(sizes.size() == members_.size() && root >= 0 && root < size());
  CHORALE_CHECK(part.size() == static_cast<size_t>(sizes[static_cast<size_t>(rank_)]));
  CHORALE_CHECK(rank_ != root || all.size() == sum_of(sizes));
  const Call call = arrive();
  if (rank_ == root)
    receive_all(sizes, part, all);
  else
    send(part, root);
  wait(call);
}

void MpiTransport::all_to_all(std::span<const std::byte> send_parts, std::span<const int64_t> sent_sizes,
                              std::span<std::byte> room, std::span<int64_t> received_sizes) {
  const auto me = static_cast<size_t>(rank_), ranks = members_.size();
  CHORALE_CHECK(sent_sizes.size() == ranks && received_sizes.size() == ranks &&
                send_parts.size() == sum_of(sent_sizes));
  const Call call = arrive();
  context_->check(MPI_Ialltoall(sent_sizes.data(), 1, MPI_INT64_T, received_sizes.data(), 1, MPI_INT64_T,
                                comm_, &requests_.emplace_back(MPI_REQUEST_NULL)),
                  "MPI_Ialltoall");
  wait(call);
  CHORALE_CHECK(sum_of(received_sizes) <= room.size(), "no room for {} bytes in {}", sum_of(received_sizes),
                room.size());
  receive_all(received_sizes,
              send_parts.subspan(sum_of(sent_sizes.first(me)), static_cast<size_t>(sent_sizes[me])), room);
  for (size_t i = 1; i < ranks; ++i) {
    const size_t to = (me + i) % ranks;
    send(send_parts.subspan(sum_of(sent_sizes.first(to)), static_cast<size_t>(sent_sizes[to])),
         static_cast<int>(to));
  }
  wait(call);
}

// MPI's split blocks, so it waits until all have come. They agree on an entry of the notice board that none
// of them has used; groups of one split have no members in common and can share it.
std::shared_ptr<Transport> MpiTransport::split(int color, int key) {
  CHORALE_CHECK(color >= 0, "color {}", color);
  const Call call = arrive();
  int group = context_->next_group();
  context_->check(MPI_Iallreduce(MPI_IN_PLACE, &group, 1, MPI_INT, MPI_MAX, comm_,
                                 &requests_.emplace_back(MPI_REQUEST_NULL)),
                  "MPI_Iallreduce");
  wait(call);
  context_->use_group(group);
  MPI_Comm part = MPI_COMM_NULL;
  context_->check(MPI_Comm_split(comm_, color, key, &part), "MPI_Comm_split");
  int ranks = 0;
  context_->check(MPI_Comm_size(part, &ranks), "MPI_Comm_size");
  std::vector<int> members(static_cast<size_t>(ranks));
  const int mine = world_rank();
  context_->check(MPI_Allgather(&mine, 1, MPI_INT, members.data(), 1, MPI_INT, part), "MPI_Allgather");
  return std::make_shared<MpiTransport>(context_, part, group, std::move(members));
}

}  // namespace chorale::comm::mpi
