#include "kernels/weight_writer.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <vector>

#include "base/copy.h"
#include "base/element_rows.h"
#include "base/error.h"
#include "kernels/backend.h"
#include "kernels/cpu/packed_matrix.h"

namespace chorale {
namespace {

// The host packs in place.
class HostWriter final : public WeightWriter {
 public:
  explicit HostWriter(const Buffer& memory) : base_(memory.data()) {}

  int64_t write_chunk(const ElementReader& read, const WeightLayout& layout, size_t offset, int64_t chunk,
                      int half) override {
    return cpu::pack_chunk(read, layout, base_ + offset, chunk, half);
  }
  int64_t write_chunk(const SourceMatrix& source, const WeightLayout& layout, size_t offset, int64_t chunk,
                      int half) override {
    return cpu::pack_chunk(source, layout, base_ + offset, chunk, half);
  }
  void write_int4_chunk(const Int4Reader& read, const WeightLayout& layout, size_t offset, int64_t chunk,
                        int half) override {
    cpu::pack_int4_chunk(read, layout, base_ + offset, chunk, half);
  }
  int64_t write_rows(const ElementReader& read, DType dtype, int64_t rows, int64_t columns,
                     size_t offset) override {
    const auto row_bytes = static_cast<size_t>(columns) * size_of(dtype);
    int64_t nans = 0;
    for (int64_t row = 0; row < rows; ++row) {
      nans += read(row, 0, columns, base_ + offset + static_cast<size_t>(row) * row_bytes);
    }
    return nans;
  }
  void finish() override {}

 private:
  std::byte* base_;
};

// Rows go through staging memory to the device, which packs them. Each thread fills one slot while the device
// works on others.
class StagedWriter final : public WeightWriter {
 public:
  StagedWriter(const Buffer& memory, int max_threads) : memory_(memory) {
    const int slots = 2 * std::max(max_threads, 1);
    for (int i = 0; i < slots; ++i) free_.push_back(std::make_unique<Slot>(memory.device()));
  }

  int64_t write_chunk(const ElementReader& read, const WeightLayout& layout, size_t offset, int64_t chunk,
                      int half) override {
    const MatrixRegion first{.first_row = layout.splits_n() ? chunk * layout.chunk_n() : 0,
                             .first_column = layout.splits_n() ? 0 : chunk * layout.chunk_k(),
                             .half = half};
    const int64_t columns = layout.splits_n() ? layout.k : layout.chunk_k();
    return in_bands(element_dtype(layout.format), layout.chunk_n(), columns,
                    [&](Slot& slot, int64_t row, const Tensor& host, const Tensor& device) {
                      MatrixRegion region = first;
                      region.first_row += row;
                      int64_t nans = 0;
                      for (int64_t r = 0; r < host.rows(); ++r) {
                        nans += read(region.first_row + r, region.first_column, columns, row_of(host, r));
                      }
                      copy(slot.stream, host, device);
                      backend_of(memory_.device())
                          .pack_rows(slot.stream, device, layout, memory_.device_data() + offset, region);
                      return nans;
                    });
  }

  int64_t write_chunk(const SourceMatrix& source, const WeightLayout& layout, size_t offset, int64_t chunk,
                      int half) override {
    CHORALE_CHECK(source.rows == layout.n && source.columns == layout.k, "[{}, {}] for [{}, {}]", source.rows,
                  source.columns, layout.n, layout.k);
    const auto element = static_cast<int64_t>(size_of(source.dtype));
    const int64_t stride = source.row_stride > 0 ? source.row_stride : source.columns;
    const DType dtype = element_dtype(layout.format);
    return write_chunk(
        [&](int64_t row, int64_t column, int64_t count, std::byte* out) {
          return convert_elements(source.data + (row * stride + column) * element, source.dtype, out, dtype,
                                  count);
        },
        layout, offset, chunk, half);
  }

  void write_int4_chunk(const Int4Reader&, const WeightLayout&, size_t, int64_t, int) override {
    CHORALE_CHECK(false, "{} has no int4 weights", memory_.device().name());
  }

  int64_t write_rows(const ElementReader& read, DType dtype, int64_t rows, int64_t columns,
                     size_t offset) override {
    return in_bands(dtype, rows, columns, [&](Slot& slot, int64_t row, const Tensor& host, const Tensor&) {
      int64_t nans = 0;
      for (int64_t r = 0; r < host.rows(); ++r) {
        nans += read(row + r, 0, columns, row_of(host, r));
      }
      std::byte* target =
          memory_.device_data() + offset + static_cast<size_t>(row * columns) * size_of(dtype);
      copy(slot.stream, host, Tensor(target, dtype, host.rows(), columns, columns, memory_.device()));
      return nans;
    });
  }

  void finish() override {
    for (const std::unique_ptr<Slot>& slot : free_) slot->stream.synchronize();
  }

 private:
  static constexpr size_t kSlotBytes = size_t{8} << 20;

  struct Slot {
    explicit Slot(const Device& device)
        : queue(device.driver()->make_queue()),
          stream(*queue),
          host(kSlotBytes, device.staging()),
          staged(kSlotBytes, device) {}
    std::unique_ptr<Queue> queue;
    Stream stream;
    Buffer host, staged;
  };

  static std::byte* row_of(const Tensor& host, int64_t r) {
    return host.bytes() + r * host.row_stride() * static_cast<int64_t>(size_of(host.dtype()));
  }

  // Calls write(slot, first row, host, device) for bands of rows that fit a slot; adds up what it returns.
  template <typename Write>
  int64_t in_bands(DType dtype, int64_t rows, int64_t columns, const Write& write) {
    const auto band = static_cast<int64_t>(kSlotBytes / size_of(dtype)) / columns;
    CHORALE_CHECK(band > 0, "rows of {} elements", columns);
    int64_t nans = 0;
    for (int64_t row = 0; row < rows; row += band) {
      const int64_t count = std::min(band, rows - row);
      const Taken slot(*this);
      nans +=
          write(*slot.slot, row, Tensor(slot.slot->host.data(), dtype, count, columns, columns),
                Tensor(slot.slot->staged.device_data(), dtype, count, columns, columns, memory_.device()));
    }
    return nans;
  }

  // A slot that nobody else has, whose last work is done; goes back at the end of the scope.
  struct Taken {
    explicit Taken(StagedWriter& from) : writer(from) {
      std::unique_lock lock(writer.mutex_);
      writer.returned_.wait(lock, [&] { return !writer.free_.empty(); });
      slot = std::move(writer.free_.front());  // the one whose work was given first
      writer.free_.erase(writer.free_.begin());
      lock.unlock();
      slot->stream.synchronize();
    }
    Taken(const Taken&) = delete;
    Taken& operator=(const Taken&) = delete;
    ~Taken() {
      const std::lock_guard lock(writer.mutex_);
      writer.free_.push_back(std::move(slot));
      writer.returned_.notify_one();
    }
    StagedWriter& writer;
    std::unique_ptr<Slot> slot;
  };

  const Buffer& memory_;
  std::mutex mutex_;
  std::condition_variable returned_;
  std::vector<std::unique_ptr<Slot>> free_;
};

}  // namespace

std::unique_ptr<WeightWriter> make_weight_writer(const Buffer& memory, int max_threads) {
  if (memory.device().is_host_memory()) return std::make_unique<HostWriter>(memory);
  return std::make_unique<StagedWriter>(memory, max_threads);
}

}  // namespace chorale
