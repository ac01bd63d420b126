// Tensor: a view of typed memory with a shape, on a device. Buffer: memory that is owned.
//
// Model code passes tensors to ops and never dereferences them; only the kernels of a backend look inside.
// Reading memory that the host cannot follow is a programmer's fault, which ends the process, in release
// builds, too.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/device.h"
#include "base/dtype.h"
#include "base/error.h"
#include "base/float16.h"

namespace chorale {

// The element type that belongs to a C++ type.
template <typename T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, float>)
    return DType::f32;
  else if constexpr (std::is_same_v<T, bf16>)
    return DType::bf16;
  else if constexpr (std::is_same_v<T, f16>)
    return DType::f16;
  else if constexpr (std::is_same_v<T, int32_t>)
    return DType::i32;
  else if constexpr (std::is_same_v<T, int64_t>)
    return DType::i64;
  else {
    static_assert(std::is_same_v<T, std::byte>, "no dtype for this type");
    return DType::u8;
  }
}

// A borrowed view of a vector [n] or a matrix [rows, columns] whose rows may lie further apart than their
// length. Copying copies the view. Valid as long as the memory it points to.
class Tensor {
 public:
  Tensor() = default;
  Tensor(void* data, DType dtype, int64_t rows, int64_t columns, int64_t row_stride, Device device = {})
      : data_(static_cast<std::byte*>(data)),
        device_(device),
        dtype_(dtype),
        rows_(rows),
        columns_(columns),
        stride_(row_stride) {
    CHORALE_CHECK(rows >= 0 && columns >= 0 && row_stride >= columns);
  }

  const Device& device() const { return device_; }
  DType dtype() const { return dtype_; }
  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  int64_t row_stride() const { return stride_; }  // in elements
  int64_t size() const { return rows_ * columns_; }
  bool empty() const { return data_ == nullptr || size() == 0; }

  // The first n rows.
  Tensor first_rows(int64_t n) const {
    CHORALE_CHECK(n <= rows_, "{} rows of {}", n, rows_);
    Tensor view = *this;
    view.rows_ = n;
    return view;
  }

  // `n` rows, or columns, from `first` on.
  Tensor middle_rows(int64_t first, int64_t n) const {
    CHORALE_CHECK(first >= 0 && n >= 0 && first + n <= rows_, "rows {} to {} of {}", first, first + n, rows_);
    Tensor view = *this;
    view.data_ = data_ + first * stride_ * static_cast<int64_t>(size_of(dtype_));
    view.rows_ = n;
    return view;
  }
  Tensor middle_columns(int64_t first, int64_t n) const {
    CHORALE_CHECK(first >= 0 && n >= 0 && first + n <= columns_, "columns {} to {} of {}", first, first + n,
                  columns_);
    Tensor view = *this;
    view.data_ = data_ + first * static_cast<int64_t>(size_of(dtype_));
    view.columns_ = n;
    return view;
  }
  // Another shape of as many elements, where rows follow each other without padding.
  Tensor reshaped(int64_t rows, int64_t columns) const {
    CHORALE_CHECK(rows * columns == size() && (rows_ <= 1 || stride_ == columns_), "[{}, {}] as [{}, {}]",
                  rows_, columns_, rows, columns);
    Tensor view = *this;
    view.rows_ = rows;
    view.columns_ = view.stride_ = columns;
    return view;
  }
  Tensor first_columns(int64_t n) const { return middle_columns(0, n); }

  // The memory, of whatever type, for code of the host.
  std::byte* bytes() const {
    check_host();
    return data_;
  }
  // For kernels of the CPU: the typed memory. The type must be the tensor's.
  template <typename T>
  T* data() const {
    check_host();
    return device_data<T>();
  }
  template <typename T>
  T* row(int64_t r) const {
    return data<T>() + r * stride_;
  }

  // For kernels of the tensor's device, whichever that is: its addresses, which only they can follow.
  std::byte* device_bytes() const { return data_; }
  template <typename T>
  T* device_data() const {
    CHORALE_CHECK(dtype_of<T>() == dtype_, "tensor is {}", name_of(dtype_));
    return reinterpret_cast<T*>(data_);
  }

 private:
  void check_host() const {
    CHORALE_CHECK(device_.is_host_memory(), "the host reads memory of {}", device_.name());
  }

  std::byte* data_ = nullptr;
  Device device_;
  DType dtype_ = DType::f32;
  int64_t rows_ = 0;
  int64_t columns_ = 0;
  int64_t stride_ = 0;
};

// Owns zeroed memory of a device. The CPU's is page-aligned, backed by huge pages where the system gives
// them, and pages are only taken from the system when they are first touched. Throws Error when there is not
// that much.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes, Device device = {});
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();

  const Device& device() const { return device_; }
  size_t size() const { return size_; }
  // For code of the host.
  std::byte* data() const {
    CHORALE_CHECK(device_.is_host_memory(), "the host reads memory of {}", device_.name());
    return data_;
  }
  std::byte* device_data() const { return data_; }  // for kernels of the device

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
  Device device_;
};

// Hands out aligned, zeroed pieces of one Buffer. First add up what is needed, then allocate, then take the
// same pieces in the same order:
//   Arena arena(bytes, device);  Tensor x = arena.matrix(DType::f32, rows, columns);
class Arena {
 public:
  explicit Arena(size_t bytes, Device device = {}) : buffer_(bytes, device) {}

  // Bytes that a matrix uses up, alignment included.
  static size_t matrix_bytes(DType dtype, int64_t rows, int64_t columns) {
    return footprint(static_cast<size_t>(rows * padded_columns(dtype, columns)) * size_of(dtype));
  }
  static size_t dense_matrix_bytes(DType dtype, int64_t rows, int64_t columns) {
    return footprint(static_cast<size_t>(rows * columns) * size_of(dtype));
  }

  // A matrix whose rows start at cache lines; the padding between rows is zero and stays so.
  Tensor matrix(DType dtype, int64_t rows, int64_t columns) {
    return take(dtype, rows, columns, padded_columns(dtype, columns));
  }
  // A matrix whose rows follow each other without padding.
  Tensor dense_matrix(DType dtype, int64_t rows, int64_t columns) {
    return take(dtype, rows, columns, columns);
  }

  const Device& device() const { return buffer_.device(); }
  size_t size() const { return buffer_.size(); }

  // `bytes` up to the next piece.
  static constexpr size_t footprint(size_t bytes) {
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }

 private:
  static constexpr size_t kAlignment = 64;
  static int64_t padded_columns(DType dtype, int64_t columns) {
    const auto per_line = static_cast<int64_t>(kAlignment / size_of(dtype));
    return (columns + per_line - 1) / per_line * per_line;
  }
  Tensor take(DType dtype, int64_t rows, int64_t columns, int64_t stride) {
    const size_t bytes = footprint(static_cast<size_t>(rows * stride) * size_of(dtype));
    CHORALE_CHECK(used_ + bytes <= buffer_.size(), "arena of {} bytes is too small", buffer_.size());
    std::byte* piece = buffer_.device_data() + used_;
    used_ += bytes;
    return Tensor(piece, dtype, rows, columns, stride, buffer_.device());
  }

  Buffer buffer_;
  size_t used_ = 0;
};

}  // namespace chorale
