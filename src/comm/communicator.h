// A group of ranks that exchange data, as a value: copies speak for the same rank of the same group.
//
// Every rank of the group calls the same operations in the same order with shapes that agree; when a call
// returns on the CPU, its outputs are there and its inputs may be reused; the two do not overlap. A group of
// one is the identity, so code that is written for ranks runs on one. A communicator and its copies are used
// by one thread at a time.
//
// Tensors lie on the stream's device, or on the host. Outputs on a device are there in the stream's order.
// Where the transport needs memory of the host, the operation waits for the stream, and goes through buffers
// there, which grow to the largest operation and are kept. Where devices reach each other by themselves, the
// host waits for nothing (device_collectives.h), and a rank's failure is found by whoever waits for its queue
// (Queue::set_watch).
//
// A rank that has failed, or does not answer within the group's time limit, ends the operation on all others
// with CollectiveError, which names the rank. After that the group is of no further use.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "base/stream.h"
#include "base/tensor.h"

namespace chorale::comm {

// Not the fault of a request or a file: the server cannot go on.
class CollectiveError : public std::runtime_error {
 public:
  CollectiveError(int world_rank, const std::string& what) : std::runtime_error(what), rank(world_rank) {}
  int rank;  // the one that failed, by its number in the world; -1 when it is not known
};

// "rank 3 failed: out of memory". world_rank: -1 when it is not known.
CollectiveError rank_failure(int world_rank, std::string_view reason);

// Ranks of one group, at most.
inline constexpr size_t kMaxRanks = 1024;

// How long a rank waits for the others in one operation, unless it is told otherwise. 0 stands for no limit.
inline constexpr std::chrono::milliseconds kDefaultTimeLimit{10'000};

// What data is moved for; bytes are counted by purpose.
enum class Purpose { attention, dispatch, combine, logits, control };
inline constexpr size_t kNumPurposes = 5;
std::string_view name_of(Purpose purpose);

// Payload bytes that this rank has sent to other ranks, since the communicator of the world was made. What a
// rank keeps for itself counts nothing, and an all_reduce counts as the reduce_scatter and all_gather that it
// is.
struct Traffic {
  uint64_t bytes[kNumPurposes] = {};
  uint64_t operations[kNumPurposes] = {};
};

class DeviceCollectives;

// What a transport implements. All data is contiguous bytes or int64 values; counts are per rank of the
// group.
class Transport {
 public:
  virtual ~Transport() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual int world_rank() const = 0;
  // Whether it can only move memory of the host; tensors of other devices are then staged there.
  virtual bool needs_host_memory() const = 0;
  // What moves memory of the ranks' devices; null where there is nothing of that sort. The rest is for memory
  // of the host.
  virtual DeviceCollectives* device() const { return nullptr; }

  virtual void barrier() = 0;
  // `data` of the root becomes everyone's.
  virtual void broadcast(std::span<std::byte> data, int root) = 0;
  // The same, and matches it, without a time limit for those who wait for the root.
  virtual void await_broadcast(std::span<std::byte> data, int root) { broadcast(data, root); }
  virtual void all_reduce_sum(std::span<int64_t> values) = 0;
  // Rank r gets the sums of its part: counts[r] values, the parts one after the other in `values`.
  virtual void reduce_scatter_sum(std::span<const int64_t> values, std::span<const int64_t> counts,
                                  std::span<int64_t> part) = 0;
  // Everyone gets all parts one after the other; sizes in bytes, any of them may be zero.
  virtual void all_gather(std::span<const std::byte> part, std::span<const int64_t> sizes,
                          std::span<std::byte> all) = 0;
  // The root gets all parts one after the other; `all` is empty elsewhere.
  virtual void gather(std::span<const std::byte> part, std::span<const int64_t> sizes,
                      std::span<std::byte> all, int root) = 0;
  // send: the parts for rank 0, 1, ...; receive: those from rank 0, 1, ... Sizes in bytes, any of them may be
  // zero. received_sizes is filled in; `receive` must be large enough for what comes.
  virtual void all_to_all(std::span<const std::byte> send, std::span<const int64_t> sent_sizes,
                          std::span<std::byte> receive, std::span<int64_t> received_sizes) = 0;
  // The ranks with the same color, in the order of key, then of rank. Collective.
  virtual std::shared_ptr<Transport> split(int color, int key) = 0;
};

class Communicator {
 public:
  // The group of one.
  Communicator() = default;
  // Counts into `traffic`, which must outlive it, when that is given.
  explicit Communicator(std::shared_ptr<Transport> transport, Traffic* traffic = nullptr);

  int size() const { return transport_ ? transport_->size() : 1; }
  int rank() const { return transport_ ? transport_->rank() : 0; }
  // Whether a queue of a device may record operations on its memory, which then wait for nothing on the host.
  bool can_be_recorded() const;
  Communicator split(int color, int key) const;

  void barrier(const Stream& stream) const;
  void broadcast(const Stream& stream, std::span<std::byte> data, int root, Purpose purpose) const;
  // The same for a message that may be long in coming, such as the next step's when there are no requests:
  // the ranks that wait for the root do so without a time limit. A rank's failure still ends it. The root may
  // as well call broadcast.
  void await_broadcast(const Stream& stream, std::span<std::byte> data, int root, Purpose purpose) const;

  // The tensors below have the same columns and row stride on every rank. rows_of[r] is rank r's number of
  // rows.

  // sums = the sum over all ranks, on every rank. int64 [T, N].
  void all_reduce_sum(const Stream& stream, const Tensor& sums, Purpose purpose) const;
  // mine = the sum over all ranks of this rank's rows. sums: int64 [T, N], rank 0's rows first; mine:
  // [rows_of[rank], N].
  void reduce_scatter_sum(const Stream& stream, const Tensor& sums, std::span<const int64_t> rows_of,
                          const Tensor& mine, Purpose purpose) const;
  // all = every rank's rows, rank 0's first. mine: [rows_of[rank], N]; all: [T, N].
  void all_gather_rows(const Stream& stream, const Tensor& mine, std::span<const int64_t> rows_of,
                       const Tensor& all, Purpose purpose) const;
  // Only on the root, all = every rank's rows; elsewhere it may be empty.
  void gather_rows(const Stream& stream, const Tensor& mine, std::span<const int64_t> rows_of,
                   const Tensor& all, int root, Purpose purpose) const;
  // The same where all ranks have as many rows as this one.
  void gather_equal_rows(const Stream& stream, const Tensor& mine, const Tensor& all, int root,
                         Purpose purpose) const;
  // send: sent_rows[r] rows for each rank r in order, and more that stay; received_rows[r] is set to the rows
  // that came from rank r, which lie in `receive` in order. Both int64 [1, ranks], on the device where the
  // rows are; all four have room for what there is. Returns the rows that have come in all where the host
  // knows, which is where the transport needs its memory, else the room: what reads them goes by
  // received_rows.
  int64_t all_to_all_rows(const Stream& stream, const Tensor& send, const Tensor& sent_rows,
                          const Tensor& receive, const Tensor& received_rows, Purpose purpose) const;

 private:
  struct Staging;

  void count(Purpose purpose, int64_t bytes) const;
  DeviceCollectives* device_of(const Tensor& tensor) const;
  bool stages(const Tensor& tensor) const;
  Tensor staged_input(const Stream& stream, const Tensor& tensor, int64_t rows) const;
  Tensor staged_output(const Tensor& tensor) const;
  void finish_output(const Stream& stream, const Tensor& staged, const Tensor& tensor, int64_t rows) const;
  std::span<const int64_t> staged_counts(const Stream& stream, const Tensor& counts) const;

  std::shared_ptr<Transport> transport_;  // null: a group of one
  std::shared_ptr<Staging> staging_;      // likewise; copies share it
  Traffic* traffic_ = nullptr;
};

}  // namespace chorale::comm
