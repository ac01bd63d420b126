// Helpers of the kernel tests: tensors and packed weights that own their memory, random matrices, comparison
// by tolerance and by bits, and the devices, instruction sets, dtypes and thread counts that every test runs
// over.
//
// A body does not know its device: tensors and weights lie on the one that the test is for (OnDevice), an op
// is given them there, and whoever looks into them sees a copy on the host.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <ostream>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/copy.h"
#include "base/stream.h"
#include "base/tensor.h"
#include "kernels/backend.h"
#include "kernels/cpu/packed_matrix.h"
#include "kernels/ref/dense.h"
#include "kernels/weight_writer.h"

namespace chorale {

// Unit roundoffs: one operation rounded to nearest is off by at most this share of its result.
inline constexpr double kFloatRoundoff = 0x1p-24;
inline constexpr double kBf16Roundoff = 0x1p-8;
// The bound that kernels/cpu/vec.h states for its exp.
inline constexpr double kExpError = 2e-7;

// What a value stored as an activation may lose.
inline double roundoff_of(DType dtype) {
  return dtype == DType::bf16 ? kBf16Roundoff : kFloatRoundoff;
}

// ---- devices ----

// A device other than the CPU, with one queue.
struct TestDevice {
  explicit TestDevice(std::string_view name)
      : driver(open_device(name)), queue(driver->make_queue()), stream(*queue) {}
  std::unique_ptr<DeviceDriver> driver;
  std::unique_ptr<Queue> queue;
  Stream stream;
};

// What the running test's tensors and streams belong to; null: the CPU.
inline TestDevice*& current_device() {
  static TestDevice* current = nullptr;
  return current;
}

// The test is for this kind of device, while the object lives.
class OnDevice {
 public:
  explicit OnDevice(DeviceKind kind) {
    static TestDevice ref("ref");
    current_device() = kind == DeviceKind::ref ? &ref : nullptr;
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  ~OnDevice() { current_device() = nullptr; }
};

inline const Backend& current_backend() {
  return backend_of(current_device() == nullptr ? DeviceKind::cpu : current_device()->driver->kind());
}

inline std::string_view name_of(DeviceKind kind) {
  switch (kind) {
    case DeviceKind::cpu:
      return "cpu";
    case DeviceKind::ref:
      return "ref";
    case DeviceKind::cuda:
      return "cuda";
  }
  return "?";
}

// A test of an op that is compiled once, on each device.
class AnyDeviceTest : public testing::TestWithParam<DeviceKind> {
 private:
  OnDevice device_{GetParam()};
};
inline constexpr std::array kAllDevices{DeviceKind::cpu, DeviceKind::ref};
inline std::string name_of_device(const testing::TestParamInfo<DeviceKind>& info) {
  return std::string(name_of(info.param));
}

// ---- instruction sets, dtypes, threads ----

struct Variant {
  InstructionSet isa;
  DType dtype;  // of activations, weights and cache
  DeviceKind device = DeviceKind::cpu;
};
inline std::string name_of(const Variant& v) {
  return std::string(v.device == DeviceKind::cpu ? name_of(v.isa) : name_of(v.device)) + "_" +
         std::string(name_of(v.dtype));
}
inline std::ostream& operator<<(std::ostream& out, const Variant& v) {
  return out << name_of(v);
}
inline std::vector<Variant> all_variants() {
  std::vector<Variant> variants;
  for (DType dtype : {DType::bf16, DType::f32}) {
    for (InstructionSet isa : available_instruction_sets()) variants.push_back({isa, dtype});
    variants.push_back({InstructionSet::portable, dtype, DeviceKind::ref});
  }
  return variants;
}
inline std::string name_of_variant(const testing::TestParamInfo<Variant>& info) {
  return name_of(info.param);
}

// Of the CPU with 1 and with 3 threads; any other device's one stream twice.
inline std::array<Stream, 2> streams(InstructionSet isa) {
  if (const TestDevice* device = current_device()) return {device->stream, device->stream};
  static ThreadPool one(1);
  static ThreadPool three(3);
  return {Stream(one, isa), Stream(three, isa)};
}
inline std::string description_of(const Stream& stream) {
  return stream.device().is_cpu() ? std::to_string(stream.pool().size()) + " threads"
                                  : stream.device().name();
}

// A test of an op that is compiled once per instruction set.
class BackendTest : public testing::TestWithParam<Variant> {
 protected:
  DType dtype() const { return GetParam().dtype; }
  std::array<Stream, 2> all_streams() const { return streams(GetParam().isa); }
  Stream stream() const { return all_streams()[0]; }

 private:
  OnDevice device_{GetParam().device};
};

// ---- memory ----

// Cache-line aligned memory of its own on the heap, where the address sanitizer sees each byte beyond it.
class Bytes {
 public:
  Bytes(int64_t size, uint8_t fill)
      : data_(static_cast<std::byte*>(::operator new(static_cast<size_t>(size), kAlignment))), size_(size) {
    std::memset(data_, fill, static_cast<size_t>(size));
  }
  Bytes(Bytes&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(other.size_) {}
  Bytes& operator=(Bytes&&) = delete;
  ~Bytes() { ::operator delete(data_, kAlignment); }
  std::byte* data() const { return data_; }
  int64_t size() const { return size_; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  std::byte* data_;
  int64_t size_;
};

// A tensor that owns its memory. Its rows start at cache lines as an Arena's do, with padding that is finite
// but not zero: it must not be read into a result, and no op may write it. The elements begin as NaN, or -1.
//
// As a Tensor it is the one for ops, on the device; `->` looks at the host's. Whichever was asked for last
// holds what is true, and is copied when the other is asked for; on the CPU both are the same.
class TestTensor {
 public:
  TestTensor(DType dtype, int64_t rows, int64_t columns)
      : stride_(padded(dtype, columns)),
        memory_(rows * stride_ * static_cast<int64_t>(size_of(dtype)), kPadding),
        host_(memory_.data(), dtype, rows, columns, stride_) {
    const auto element = static_cast<int64_t>(size_of(dtype));
    for (int64_t r = 0; r < rows; ++r)
      std::memset(memory_.data() + r * stride_ * element, 0xFF, static_cast<size_t>(columns * element));
    if (current_device() == nullptr) return;
    mirror_ = std::make_unique<Mirror>(*current_device(), static_cast<size_t>(memory_.size()));
    mirror_->tensor =
        Tensor(mirror_->memory.device_data(), dtype, rows, columns, stride_, mirror_->memory.device());
  }
  // The values of a matrix, rounded to a bf16 or f32 tensor.
  TestTensor(DType dtype, const ref::Matrix& values) : TestTensor(dtype, values.rows, values.columns) {
    for (int64_t r = 0; r < values.rows; ++r) {
      for (int64_t c = 0; c < values.columns; ++c) {
        if (dtype == DType::bf16)
          host_.row<bf16>(r)[c] = to_bf16(values.at(r, c));
        else
          host_.row<float>(r)[c] = values.at(r, c);
      }
    }
  }
  TestTensor(TestTensor&&) = default;
  TestTensor& operator=(TestTensor&&) = delete;
  ~TestTensor() {
    if (memory_.data() == nullptr) return;
    host();
    const auto element = static_cast<int64_t>(size_of(host_.dtype()));
    int64_t written = 0;
    for (int64_t r = 0; r < host_.rows(); ++r)
      for (int64_t i = host_.columns() * element; i < stride_ * element; ++i)
        written += memory_.data()[r * stride_ * element + i] != std::byte{kPadding} ? 1 : 0;
    EXPECT_EQ(written, 0) << "bytes of row padding were written";
  }

  operator const Tensor&() const {
    if (mirror_ == nullptr) return host_;
    move_to(true);
    return mirror_->tensor;
  }
  const Tensor& host() const {
    if (mirror_ != nullptr) move_to(false);
    return host_;
  }
  const Tensor* operator->() const { return &host(); }
  ref::Matrix values() const { return ref::to_matrix(host()); }

 private:
  // The same memory, padding included, on a device.
  struct Mirror {
    Mirror(const TestDevice& on, size_t bytes) : device(on), memory(bytes, Device(*on.driver)) {}
    const TestDevice& device;
    Buffer memory;
    Tensor tensor;
    bool is_true = false;
  };

  void move_to(bool device) const {
    if (mirror_->is_true == device) return;
    mirror_->is_true = device;
    const Tensor host(memory_.data(), DType::u8, 1, memory_.size(), memory_.size());
    const Tensor mirror(mirror_->memory.device_data(), DType::u8, 1, memory_.size(), memory_.size(),
                        mirror_->memory.device());
    const Stream& stream = mirror_->device.stream;
    device ? copy(stream, host, mirror) : copy(stream, mirror, host);
    stream.synchronize();
  }

  static constexpr uint8_t kPadding = 0x3F;  // 0.75 as bf16 and as float32
  static int64_t padded(DType dtype, int64_t columns) {
    const auto per_line = static_cast<int64_t>(64 / size_of(dtype));
    return (columns + per_line - 1) / per_line * per_line;
  }

  int64_t stride_;
  Bytes memory_;
  Tensor host_;
  std::unique_ptr<Mirror> mirror_;
};

// A vector [1, n] of any element type.
template <typename T>
TestTensor vector_tensor(const std::vector<T>& values) {
  TestTensor tensor(dtype_of<T>(), 1, static_cast<int64_t>(values.size()));
  std::copy(values.begin(), values.end(), tensor->data<T>());
  return tensor;
}
// Of a tensor on the host.
template <typename T>
ref::Dense<T> to_dense(const Tensor& tensor) {
  ref::Dense<T> out(tensor.rows(), tensor.columns());
  for (int64_t r = 0; r < tensor.rows(); ++r)
    std::copy_n(tensor.row<T>(r), tensor.columns(), out.values.begin() + r * tensor.columns());
  return out;
}
template <typename T>
ref::Dense<T> to_dense(const TestTensor& tensor) {
  return to_dense<T>(tensor.host());
}

// A packed matrix that owns its bytes, on the device of the test.
struct TestWeights {
  cpu::PackedLayout layout;
  Bytes bytes;    // the CPU's
  Buffer memory;  // another device's

  explicit TestWeights(const WeightLayout& shape)
      : layout(shape), bytes(current_device() == nullptr ? layout.bytes() : 0, 0xFF) {
    if (const TestDevice* device = current_device())
      memory = Buffer(static_cast<size_t>(current_backend().weight_bytes(shape)), Device(*device->driver));
  }
  WeightMatrix view() const { return {layout, memory.size() > 0 ? memory.device_data() : bytes.data()}; }
};
inline SourceMatrix source_of(const ref::Matrix& m) {
  return {reinterpret_cast<const std::byte*>(m.values.data()), DType::f32, m.rows, m.columns};
}
inline void pack_half(const ref::Matrix& source, const TestWeights& target, int half) {
  const int64_t chunks = target.layout.n_chunks * target.layout.k_chunks;
  if (target.memory.size() == 0) {
    for (int64_t chunk = 0; chunk < chunks; ++chunk)
      cpu::pack_chunk(source_of(source), target.layout, target.bytes.data(), chunk, half);
    return;
  }
  const std::unique_ptr<WeightWriter> writer = make_weight_writer(target.memory, 1);
  for (int64_t chunk = 0; chunk < chunks; ++chunk)
    writer->write_chunk(source_of(source), target.layout, 0, chunk, half);
  writer->finish();
}
inline TestWeights pack(const ref::Matrix& source, DType dtype, int64_t n_chunks = 1, int64_t k_chunks = 1) {
  TestWeights packed(
      WeightLayout{plain_format(dtype), source.rows, source.columns, n_chunks, k_chunks, false});
  pack_half(source, packed, 0);
  return packed;
}
inline TestWeights pack_pair(const ref::Matrix& gate, const ref::Matrix& up, DType dtype,
                             int64_t n_chunks = 1) {
  TestWeights packed(WeightLayout{plain_format(dtype), gate.rows, gate.columns, n_chunks, 1, true});
  pack_half(gate, packed, 0);
  pack_half(up, packed, 1);
  return packed;
}

// ---- values ----

using Random = std::mt19937;

inline int64_t random_int(Random& random, int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(random);
}
inline float rounded_to(DType dtype, float x) {
  return dtype == DType::bf16 ? to_float(to_bf16(x)) : x;
}
// Normally distributed values that the dtype has.
inline ref::Matrix random_matrix(Random& random, int64_t rows, int64_t columns, DType dtype,
                                 float deviation = 1) {
  std::normal_distribution<float> normal(0, deviation);
  ref::Matrix matrix(rows, columns);
  for (float& x : matrix.values) x = rounded_to(dtype, normal(random));
  return matrix;
}
inline ref::Matrix absolute(ref::Matrix matrix) {
  for (float& x : matrix.values) x = std::fabs(x);
  return matrix;
}
inline ref::Matrix row_of(const ref::Matrix& m, int64_t row) {
  ref::Matrix out(1, m.columns);
  std::copy_n(m.values.begin() + row * m.columns, m.columns, out.values.begin());
  return out;
}
inline ref::Matrix columns_of(const ref::Matrix& m, int64_t first, int64_t count) {
  ref::Matrix out(m.rows, count);
  for (int64_t r = 0; r < m.rows; ++r)
    for (int64_t c = 0; c < count; ++c) out.at(r, c) = m.at(r, first + c);
  return out;
}

// ---- comparison ----

// Each element within its own tolerance of the reference.
inline void expect_within(const ref::Matrix& actual, const ref::Dense<double>& expected,
                          const ref::Dense<double>& tolerance) {
  ASSERT_EQ(actual.rows, expected.rows);
  ASSERT_EQ(actual.columns, expected.columns);
  ASSERT_EQ(tolerance.values.size(), expected.values.size());
  int64_t wrong = 0;
  for (int64_t r = 0; r < actual.rows; ++r) {
    for (int64_t c = 0; c < actual.columns; ++c) {
      const bool near = std::fabs(actual.at(r, c) - expected.at(r, c)) <= tolerance.at(r, c);
      if (near || ++wrong > 3) continue;
      ADD_FAILURE() << "[" << r << ", " << c << "]: " << actual.at(r, c) << ", expected " << expected.at(r, c)
                    << " within " << tolerance.at(r, c);
    }
  }
  EXPECT_EQ(wrong, 0) << "elements out of " << actual.values.size();
}

// The same bits; any NaN equals any other, because which one an operation gives is not part of the contract.
template <typename T>
bool same_bits(T a, T b) {
  if constexpr (std::is_same_v<T, float>)
    return (std::isnan(a) && std::isnan(b)) || std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
  else if constexpr (std::is_same_v<T, bf16>)
    return (std::isnan(to_float(a)) && std::isnan(to_float(b))) || a.bits == b.bits;
  else
    return a == b;
}
template <typename T>
int64_t differing(const Tensor& a, int64_t row_a, const Tensor& b, int64_t row_b) {
  int64_t count = 0;
  for (int64_t c = 0; c < a.columns(); ++c)
    count += same_bits(a.row<T>(row_a)[c], b.row<T>(row_b)[c]) ? 0 : 1;
  return count;
}
// Of tensors on the host.
inline void expect_same_host_row(const Tensor& a, int64_t row_a, const Tensor& b, int64_t row_b) {
  ASSERT_EQ(a.dtype(), b.dtype());
  ASSERT_EQ(a.columns(), b.columns());
  int64_t count = 0;
  if (a.dtype() == DType::bf16)
    count = differing<bf16>(a, row_a, b, row_b);
  else if (a.dtype() == DType::f32)
    count = differing<float>(a, row_a, b, row_b);
  else if (a.dtype() == DType::i64)
    count = differing<int64_t>(a, row_a, b, row_b);
  else
    count = differing<int32_t>(a, row_a, b, row_b);
  EXPECT_EQ(count, 0) << "columns of row " << row_a << " (" << row_b << ") have other bits";
}
inline void expect_same_row(const TestTensor& a, int64_t row_a, const TestTensor& b, int64_t row_b) {
  expect_same_host_row(a.host(), row_a, b.host(), row_b);
}
inline void expect_same_host_bits(const Tensor& a, const Tensor& b) {
  ASSERT_EQ(a.rows(), b.rows());
  for (int64_t r = 0; r < a.rows(); ++r) expect_same_host_row(a, r, b, r);
}
inline void expect_same_bits(const TestTensor& a, const TestTensor& b) {
  expect_same_host_bits(a.host(), b.host());
}

}  // namespace chorale
