#include "comm/nccl/nccl_world.h"

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "base/error.h"
#include "base/tensor.h"
#include "comm/device_transport.h"
#include "comm/nccl/nccl_library.h"
#include "comm/nccl/row_slots.h"

namespace chorale::comm {
namespace nccl {
namespace {

// A rank's handles, those of groups that were split off among them.
struct Handles {
  ~Handles() { abort(); }
  // Ends what is under way, and waits for nobody: what ncclCommDestroy would do only when all ranks come.
  void abort() {
    for (Comm comm : comms) library().CommAbort(comm);
    comms.clear();
  }
  Device device;
  std::vector<Comm> comms;
};

bool are_equal(std::span<const int64_t> sizes) {
  return std::ranges::all_of(sizes, [&](int64_t size) { return size == sizes[0]; });
}

class NcclCollectives final : public DeviceCollectives {
 public:
  NcclCollectives(std::shared_ptr<Handles> handles, Comm comm, int rank, int size)
      : library_(library()), handles_(std::move(handles)), comm_(comm), rank_(rank), size_(size) {}

  bool can_be_recorded() const override { return true; }

  void reduce_scatter_sum(const chorale::Stream& stream, const int64_t* values,
                          std::span<const int64_t> counts, int64_t* part) override {
    void* const queue = enter(stream);
    if (are_equal(counts)) {
      if (counts[0] == 0) return;
      return check(
          library_.ReduceScatter(values, part, static_cast<size_t>(counts[0]), kInt64, kSum, comm_, queue),
          "ncclReduceScatter");
    }
    grouped([&] {
      const int64_t* from = values;
      for (int r = 0; r < size_; ++r) {
        const auto count = static_cast<size_t>(counts[static_cast<size_t>(r)]);
        if (count > 0) check(library_.Reduce(from, part, count, kInt64, kSum, r, comm_, queue), "ncclReduce");
        from += count;
      }
    });
  }

  void all_gather(const chorale::Stream& stream, const std::byte* part, std::span<const int64_t> sizes,
                  std::byte* all) override {
    void* const queue = enter(stream);
    if (are_equal(sizes)) {
      if (sizes[0] == 0) return;
      return check(library_.AllGather(part, all, static_cast<size_t>(sizes[0]), kUint8, comm_, queue),
                   "ncclAllGather");
    }
    grouped([&] {
      std::byte* to = all;
      for (int r = 0; r < size_; ++r) {
        const auto size = static_cast<size_t>(sizes[static_cast<size_t>(r)]);
        const std::byte* const from = r == rank_ ? part : to;  // read by the root alone
        if (size > 0) check(library_.Broadcast(from, to, size, kUint8, r, comm_, queue), "ncclBroadcast");
        to += size;
      }
    });
  }

  void gather(const chorale::Stream& stream, const std::byte* part, std::span<const int64_t> sizes,
              std::byte* all, int root) override {
    void* const queue = enter(stream);
    grouped([&] {
      const auto mine = static_cast<size_t>(sizes[static_cast<size_t>(rank_)]);
      if (mine > 0) check(library_.Send(part, mine, kUint8, root, comm_, queue), "ncclSend");
      if (rank_ != root) return;
      std::byte* to = all;
      for (int r = 0; r < size_; ++r) {
        const auto size = static_cast<size_t>(sizes[static_cast<size_t>(r)]);
        if (size > 0) check(library_.Recv(to, size, kUint8, r, comm_, queue), "ncclRecv");
        to += size;
      }
    });
  }

  // A rank has room for what all others may send, so no rank sends another more than its share of that.
  void all_to_all(const chorale::Stream& stream, const RowExchange& rows) override {
    void* const queue = enter(stream);
    const RowSlots shape{.device = handles_->device.driver()->index(),
                         .stream = queue,
                         .ranks = size_,
                         .room = (std::max(rows.send_room, rows.receive_room) + size_ - 1) / size_,
                         .row_bytes = rows.row_bytes};
    const auto slot = static_cast<size_t>(shape.slot_bytes());
    std::byte* const out = room_for(2 * slot * static_cast<size_t>(size_));
    std::byte* const in = out + slot * static_cast<size_t>(size_);
    fill_slots(shape, rows.send, rows.sent_rows, out);
    grouped([&] {
      for (int r = 0; r < size_; ++r) {
        const auto at = static_cast<size_t>(r);
        check(library_.Send(rows.sent_rows + r, 1, kInt64, r, comm_, queue), "ncclSend");
        check(library_.Recv(rows.received_rows + r, 1, kInt64, r, comm_, queue), "ncclRecv");
        check(library_.Send(out + at * slot, slot, kUint8, r, comm_, queue), "ncclSend");
        check(library_.Recv(in + at * slot, slot, kUint8, r, comm_, queue), "ncclRecv");
      }
    });
    empty_slots(shape, in, rows.received_rows, rows.receive, rows.receive_room);
  }

  std::shared_ptr<DeviceCollectives> split(int color, int key, Transport& part) override {
    nccl::enter(handles_->device.driver()->index());
    Comm made = nullptr;
    check(library_.CommSplit(comm_, color, key, &made, nullptr), "ncclCommSplit");
    handles_->comms.push_back(made);
    return std::make_shared<NcclCollectives>(handles_, made, part.rank(), part.size());
  }

 private:
  void* enter(const chorale::Stream& stream) const {
    CHORALE_CHECK(stream.device() == handles_->device, "a queue of {} for a rank on {}",
                  stream.device().name(), handles_->device.name());
    nccl::enter(handles_->device.driver()->index());
    return stream.queue().native_handle();
  }
  void check(int result, std::string_view call) const {
    library_.check(result, call, handles_->device.driver()->index(), comm_);
  }
  template <typename Calls>
  void grouped(const Calls& calls) const {
    check(library_.GroupStart(), "ncclGroupStart");
    calls();
    check(library_.GroupEnd(), "ncclGroupEnd");
  }

  // Grows; what recorded operations use stays.
  std::byte* room_for(size_t bytes) {
    if (rooms_.empty() || rooms_.back().size() < bytes) {
      rooms_.emplace_back(std::max(bytes, rooms_.empty() ? size_t{0} : 2 * rooms_.back().size()),
                          handles_->device);
    }
    return rooms_.back().device_data();
  }

  const Library& library_;
  std::shared_ptr<Handles> handles_;
  Comm comm_;
  int rank_;
  int size_;
  std::vector<Buffer> rooms_;
};

}  // namespace
}  // namespace nccl

bool nccl_is_there() {
  return nccl::why_there_is_none().empty();
}

void require_nccl() {
  nccl::library();
}

std::string nccl_version() {
  int version = 0;
  nccl::library().GetVersion(&version);
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

NcclRank join_nccl(std::shared_ptr<Transport> host, const Device& device,
                   std::function<std::optional<CollectiveError>()> failure) {
  const nccl::Library& library = nccl::library();
  const int index = device.driver()->index();
  nccl::enter(index);
  nccl::UniqueId id{};
  if (host->rank() == 0) library.check(library.GetUniqueId(&id), "ncclGetUniqueId", index);
  host->broadcast(std::as_writable_bytes(std::span(&id, 1)), 0);
  auto handles = std::make_shared<nccl::Handles>();
  handles->device = device;
  nccl::Comm comm = nullptr;
  library.check(library.CommInitRank(&comm, host->size(), id, host->rank()), "ncclCommInitRank", index);
  handles->comms.push_back(comm);
  auto collectives = std::make_shared<nccl::NcclCollectives>(handles, comm, host->rank(), host->size());
  auto watch = [handles, index, failure = std::move(failure)] {
    if (const std::optional<CollectiveError> error = failure()) {
      handles->abort();
      throw *error;
    }
    for (nccl::Comm each : handles->comms) {
      int result = nccl::kSuccess;
      nccl::library().check(nccl::library().CommGetAsyncError(each, &result), "ncclCommGetAsyncError", index);
      if (result == nccl::kSuccess || result == nccl::kInProgress) continue;
      handles->abort();
      nccl::library().check(result, "a collective operation", index);
    }
  };
  return {std::make_shared<DeviceTransport>(std::move(host), std::move(collectives)), std::move(watch)};
}

}  // namespace chorale::comm
