#include "comm/communicator.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include <fmt/format.h>

#include "base/copy.h"
#include "base/error.h"
#include "comm/device_collectives.h"

namespace chorale::comm {
namespace {

// The rows of a tensor as one piece of memory. Rows lie at equal distances, so what pads them travels along.
std::span<std::byte> bytes_of(const Tensor& t, int64_t rows) {
  const auto bytes = static_cast<size_t>(rows * t.row_stride()) * size_of(t.dtype());
  return {t.bytes(), rows == 0 ? 0 : bytes};
}

std::span<int64_t> values_of(const Tensor& t, int64_t rows) {
  CHORALE_CHECK(t.dtype() == DType::i64, "sums of {}", name_of(t.dtype()));
  if (rows == 0) return {};
  return {t.data<int64_t>(), static_cast<size_t>(rows * t.row_stride())};
}

void check_alike(const Tensor& a, const Tensor& b) {
  CHORALE_CHECK(a.dtype() == b.dtype() && a.columns() == b.columns() && a.row_stride() == b.row_stride(),
                "{} [., {}] by {} and {} [., {}] by {}", name_of(a.dtype()), a.columns(), a.row_stride(),
                name_of(b.dtype()), b.columns(), b.row_stride());
}

int64_t total(std::span<const int64_t> counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

void copy_rows(const Stream& stream, const Tensor& from, const Tensor& to, int64_t rows) {
  if (!from.device().is_host_memory() || !to.device().is_host_memory())
    return copy(stream, from.first_rows(rows), to.first_rows(rows));
  const std::span<std::byte> source = bytes_of(from, rows);
  if (!source.empty()) std::memmove(to.bytes(), source.data(), source.size());
}

// Sizes of the ranks' parts for transports, which know no rows. Groups are small, so the stack has room.
class Sizes {
 public:
  Sizes(std::span<const int64_t> rows_of, int64_t row_size) : count_(rows_of.size()) {
    CHORALE_CHECK(count_ <= kMaxRanks, "{} ranks; at most {} are supported", count_, kMaxRanks);
    for (size_t r = 0; r < count_; ++r) sizes_[r] = rows_of[r] * row_size;
  }
  explicit Sizes(size_t count) : count_(count) { CHORALE_CHECK(count_ <= kMaxRanks); }
  std::span<int64_t> span() { return {sizes_, count_}; }
  int64_t operator[](size_t r) const { return sizes_[r]; }

 private:
  int64_t sizes_[kMaxRanks];
  size_t count_;
};

int64_t row_bytes(const Tensor& t) {
  return t.row_stride() * static_cast<int64_t>(size_of(t.dtype()));
}

void check_room(const Tensor& all, int64_t rows, const Tensor& mine, int64_t own_rows) {
  CHORALE_CHECK(all.rows() >= rows && mine.rows() >= own_rows, "{} and {} rows in {} and {}", rows, own_rows,
                all.rows(), mine.rows());
}

struct Place {
  int rank = 0;
  int size = 1;
};

// In two halves: each rank adds up its part where it lies, then gets the others'.
void all_reduce(const Stream& stream, DeviceCollectives& device, const Tensor& sums, const Place& place) {
  const int64_t values = sums.rows() * sums.row_stride();
  int64_t counts[kMaxRanks], sizes[kMaxRanks];
  const auto first_of = [&](int r) { return values * r / place.size; };
  for (int r = 0; r < place.size; ++r) {
    counts[r] = first_of(r + 1) - first_of(r);
    sizes[r] = counts[r] * static_cast<int64_t>(sizeof(int64_t));
  }
  auto* const all = sums.device_data<int64_t>();
  int64_t* const part = all + first_of(place.rank);
  const auto ranks = static_cast<size_t>(place.size);
  device.reduce_scatter_sum(stream, all, {counts, ranks}, part);
  device.all_gather(stream, reinterpret_cast<const std::byte*>(part), {sizes, ranks},
                    reinterpret_cast<std::byte*>(all));
}

// A tensor of the same shape and distance of rows, in memory that grows to the largest asked for.
Tensor room_for(const Tensor& tensor, Buffer& memory) {
  const auto bytes = static_cast<size_t>(tensor.rows() * row_bytes(tensor));
  const Device device = tensor.device().staging();
  if (memory.size() < bytes || memory.device() != device) memory = Buffer(bytes, device);
  return Tensor(memory.data(), tensor.dtype(), tensor.rows(), tensor.columns(), tensor.row_stride(), device);
}

}  // namespace

struct Communicator::Staging {
  Buffer input, output, input_counts, output_counts;
};

Communicator::Communicator(std::shared_ptr<Transport> transport, Traffic* traffic)
    : transport_(std::move(transport)), staging_(std::make_shared<Staging>()), traffic_(traffic) {}

// What moves the tensor; null where that is the transport itself.
DeviceCollectives* Communicator::device_of(const Tensor& tensor) const {
  return tensor.device().is_host_memory() ? nullptr : transport_->device();
}

bool Communicator::can_be_recorded() const {
  if (size() == 1) return true;
  return transport_->device() != nullptr && transport_->device()->can_be_recorded();
}

bool Communicator::stages(const Tensor& tensor) const {
  return !tensor.device().is_host_memory() && transport_->needs_host_memory();
}

// The tensor as the transport can read it, with its first rows. What was given to the stream before is done
// then, and so is all that still read the memory of an earlier output.
Tensor Communicator::staged_input(const Stream& stream, const Tensor& tensor, int64_t rows) const {
  if (!stages(tensor)) return tensor;
  const Tensor staged = room_for(tensor.first_rows(rows), staging_->input);
  copy(stream, tensor.first_rows(rows), staged);
  stream.synchronize();
  return staged;
}

// Where the transport can write what belongs to the tensor. After staged_input().
Tensor Communicator::staged_output(const Tensor& tensor) const {
  return stages(tensor) ? room_for(tensor, staging_->output) : tensor;
}

void Communicator::finish_output(const Stream& stream, const Tensor& staged, const Tensor& tensor,
                                 int64_t rows) const {
  if (stages(tensor)) copy(stream, staged.first_rows(rows), tensor.first_rows(rows));
}

// Numbers of rows, where the host can read them.
std::span<const int64_t> Communicator::staged_counts(const Stream& stream, const Tensor& counts) const {
  const auto ranks = static_cast<size_t>(size());
  if (!stages(counts)) return {counts.data<int64_t>(), ranks};
  const Tensor staged = room_for(counts, staging_->input_counts);
  copy(stream, counts, staged);
  stream.synchronize();
  return {staged.data<int64_t>(), ranks};
}

CollectiveError rank_failure(int world_rank, std::string_view reason) {
  return {world_rank, world_rank < 0 ? fmt::format("a rank failed: {}", reason)
                                     : fmt::format("rank {} failed: {}", world_rank, reason)};
}

std::string_view name_of(Purpose purpose) {
  switch (purpose) {
    case Purpose::attention:
      return "attention";
    case Purpose::dispatch:
      return "dispatch";
    case Purpose::combine:
      return "combine";
    case Purpose::logits:
      return "logits";
    case Purpose::control:
      return "control";
  }
  return "?";
}

Communicator Communicator::split(int color, int key) const {
  if (size() == 1) return {};
  auto part = transport_->split(color, key);
  return part->size() == 1 ? Communicator() : Communicator(std::move(part), traffic_);
}

void Communicator::count(Purpose purpose, int64_t bytes) const {
  if (traffic_ == nullptr) return;
  traffic_->bytes[static_cast<size_t>(purpose)] += static_cast<uint64_t>(bytes);
  ++traffic_->operations[static_cast<size_t>(purpose)];
}

void Communicator::barrier(const Stream&) const {
  if (size() > 1) transport_->barrier();
}

void Communicator::broadcast(const Stream&, std::span<std::byte> data, int root, Purpose purpose) const {
  if (size() == 1) return;
  transport_->broadcast(data, root);
  count(purpose, rank() == root ? static_cast<int64_t>(data.size()) * (size() - 1) : 0);
}

void Communicator::await_broadcast(const Stream&, std::span<std::byte> data, int root,
                                   Purpose purpose) const {
  if (size() == 1) return;
  transport_->await_broadcast(data, root);
  count(purpose, rank() == root ? static_cast<int64_t>(data.size()) * (size() - 1) : 0);
}

void Communicator::all_reduce_sum(const Stream& stream, const Tensor& sums, Purpose purpose) const {
  if (size() == 1) return;
  if (DeviceCollectives* const device = device_of(sums); device != nullptr) {
    all_reduce(stream, *device, sums, {rank(), size()});
    return count(purpose, 2 * sums.rows() * row_bytes(sums) * (size() - 1) / size());
  }
  const Tensor staged = staged_input(stream, sums, sums.rows());
  const std::span<int64_t> values = values_of(staged, sums.rows());
  transport_->all_reduce_sum(values);
  if (stages(sums)) {
    copy(stream, staged, sums);
    stream.synchronize();  // the next input takes the same memory
  }
  count(purpose, 2 * static_cast<int64_t>(values.size_bytes()) * (size() - 1) / size());
}

void Communicator::reduce_scatter_sum(const Stream& stream, const Tensor& sums,
                                      std::span<const int64_t> rows_of, const Tensor& mine,
                                      Purpose purpose) const {
  check_alike(sums, mine);
  const auto me = static_cast<size_t>(rank());
  if (size() == 1) return copy_rows(stream, sums, mine, rows_of[me]);
  Sizes sizes(rows_of, sums.row_stride());
  if (DeviceCollectives* const device = device_of(sums); device != nullptr) {
    check_room(sums, total(rows_of), mine, rows_of[me]);
    device->reduce_scatter_sum(stream, sums.device_data<int64_t>(), sizes.span(),
                               mine.device_data<int64_t>());
    return count(purpose, (total(rows_of) - rows_of[me]) * row_bytes(sums));
  }
  const Tensor input = staged_input(stream, sums, total(rows_of));
  const Tensor output = staged_output(mine);
  const std::span<int64_t> values = values_of(input, total(rows_of));
  transport_->reduce_scatter_sum(values, sizes.span(), values_of(output, rows_of[me]));
  finish_output(stream, output, mine, rows_of[me]);
  count(purpose, static_cast<int64_t>(values.size_bytes()) - rows_of[me] * row_bytes(sums));
}

void Communicator::all_gather_rows(const Stream& stream, const Tensor& mine, std::span<const int64_t> rows_of,
                                   const Tensor& all, Purpose purpose) const {
  check_alike(mine, all);
  const auto me = static_cast<size_t>(rank());
  if (size() == 1) return copy_rows(stream, mine, all, rows_of[me]);
  Sizes sizes(rows_of, row_bytes(mine));
  if (DeviceCollectives* const device = device_of(mine); device != nullptr) {
    check_room(all, total(rows_of), mine, rows_of[me]);
    device->all_gather(stream, mine.device_bytes(), sizes.span(), all.device_bytes());
    return count(purpose, sizes[me] * (size() - 1));
  }
  const Tensor input = staged_input(stream, mine, rows_of[me]);
  const Tensor output = staged_output(all);
  transport_->all_gather(bytes_of(input, rows_of[me]), sizes.span(), bytes_of(output, total(rows_of)));
  finish_output(stream, output, all, total(rows_of));
  count(purpose, sizes[me] * (size() - 1));
}

void Communicator::gather_rows(const Stream& stream, const Tensor& mine, std::span<const int64_t> rows_of,
                               const Tensor& all, int root, Purpose purpose) const {
  const auto me = static_cast<size_t>(rank());
  if (size() == 1) return copy_rows(stream, mine, all, rows_of[me]);
  const bool is_root = rank() == root;
  if (is_root) check_alike(mine, all);
  Sizes sizes(rows_of, row_bytes(mine));
  if (DeviceCollectives* const device = device_of(mine); device != nullptr) {
    if (is_root) check_room(all, total(rows_of), mine, rows_of[me]);
    device->gather(stream, mine.device_bytes(), sizes.span(), all.device_bytes(), root);
    return count(purpose, is_root ? 0 : sizes[me]);
  }
  const Tensor input = staged_input(stream, mine, rows_of[me]);
  const Tensor output = is_root ? staged_output(all) : Tensor();
  transport_->gather(bytes_of(input, rows_of[me]), sizes.span(),
                     is_root ? bytes_of(output, total(rows_of)) : std::span<std::byte>{}, root);
  if (is_root) finish_output(stream, output, all, total(rows_of));
  count(purpose, is_root ? 0 : sizes[me]);
}

void Communicator::gather_equal_rows(const Stream& stream, const Tensor& mine, const Tensor& all, int root,
                                     Purpose purpose) const {
  int64_t rows[kMaxRanks];
  std::fill_n(rows, size(), mine.rows());
  gather_rows(stream, mine, {rows, static_cast<size_t>(size())}, all, root, purpose);
}

int64_t Communicator::all_to_all_rows(const Stream& stream, const Tensor& send, const Tensor& sent_rows,
                                      const Tensor& receive, const Tensor& received_rows,
                                      Purpose purpose) const {
  check_alike(send, receive);
  for (const Tensor& counts : {sent_rows, received_rows}) {
    CHORALE_CHECK(counts.dtype() == DType::i64 && counts.rows() == 1 && counts.columns() == size(),
                  "counts: {} [{}, {}] for {} ranks", name_of(counts.dtype()), counts.rows(),
                  counts.columns(), size());
  }
  if (size() == 1) {
    copy(stream, sent_rows, received_rows);
    const bool is_known = sent_rows.device().is_host_memory();
    const int64_t rows = is_known ? *sent_rows.data<int64_t>() : std::min(send.rows(), receive.rows());
    copy_rows(stream, send, receive, rows);
    return rows;
  }
  if (DeviceCollectives* const device = device_of(send); device != nullptr) {
    device->all_to_all(stream, {.send = send.device_bytes(),
                                .sent_rows = sent_rows.device_data<int64_t>(),
                                .send_room = send.rows(),
                                .receive = receive.device_bytes(),
                                .received_rows = received_rows.device_data<int64_t>(),
                                .receive_room = receive.rows(),
                                .row_bytes = row_bytes(send)});
    count(purpose, 0);  // how many rows there are, the devices alone know
    return receive.rows();
  }
  const std::span<const int64_t> rows_to = staged_counts(stream, sent_rows);
  const int64_t num_sent = total(rows_to);
  Sizes sent(rows_to, row_bytes(send));
  Sizes received(rows_to.size());
  const Tensor input = staged_input(stream, send, num_sent);
  const Tensor output = staged_output(receive);
  transport_->all_to_all(bytes_of(input, num_sent), sent.span(), bytes_of(output, receive.rows()),
                         received.span());
  const Tensor counts =
      stages(received_rows) ? room_for(received_rows, staging_->output_counts) : received_rows;
  auto* rows_from = counts.data<int64_t>();
  for (size_t r = 0; r < rows_to.size(); ++r) rows_from[r] = received[r] / row_bytes(send);
  const int64_t num_received = total({rows_from, rows_to.size()});
  if (stages(received_rows)) copy(stream, counts, received_rows);
  finish_output(stream, output, receive, num_received);
  count(purpose, (num_sent - rows_to[static_cast<size_t>(rank())]) * row_bytes(send));
  return num_received;
}

}  // namespace chorale::comm
