// Collective operations on memory of devices, in the order of their queues: the host does not wait for them.
//
// Every rank of the group calls the same operations in the same order, each for a queue of its own device;
// what was given to the queue before is done when a rank's input is read, and what is given after it finds
// the output. All data is contiguous; sizes and roots are the same on all ranks. Used by one thread at a
// time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/stream.h"

namespace chorale::comm {

class Transport;

// Rows that go to each rank and that come from it, of which the devices alone know how many they are.
struct RowExchange {
  const std::byte* send = nullptr;     // those for rank 0, 1, ..., one after the other
  const int64_t* sent_rows = nullptr;  // [ranks], on the device: how many for each
  int64_t send_room = 0;               // rows
  std::byte* receive = nullptr;        // those from rank 0, 1, ...
  int64_t* received_rows = nullptr;    // [ranks], on the device: is filled in
  int64_t receive_room = 0;            // rows; more than that are lost
  int64_t row_bytes = 0;
};

class DeviceCollectives {
 public:
  virtual ~DeviceCollectives() = default;
  // Whether a queue may record them (Queue::begin_recording), to give them again and again.
  virtual bool can_be_recorded() const = 0;

  // part = the sum over all ranks of this rank's part of `values`: counts[r] values for rank r, one part
  // after the other. `part` may be that place in `values` itself.
  virtual void reduce_scatter_sum(const Stream& stream, const int64_t* values,
                                  std::span<const int64_t> counts, int64_t* part) = 0;
  // all = every rank's part, one after the other; sizes in bytes. `part` may be its own place in `all`.
  virtual void all_gather(const Stream& stream, const std::byte* part, std::span<const int64_t> sizes,
                          std::byte* all) = 0;
  // Likewise, on the root alone.
  virtual void gather(const Stream& stream, const std::byte* part, std::span<const int64_t> sizes,
                      std::byte* all, int root) = 0;
  virtual void all_to_all(const Stream& stream, const RowExchange& rows) = 0;

  // Of the group `part` that was split off this one with this color and key. Collective over this group, as
  // Transport::split() is.
  virtual std::shared_ptr<DeviceCollectives> split(int color, int key, Transport& part) = 0;
};

}  // namespace chorale::comm
