#include "kernels/backend.h"

#include <charconv>

#include "base/error.h"
#include "kernels/cuda/runtime.h"

namespace chorale {
namespace {

struct NamedDevice {
  DeviceKind kind = DeviceKind::cpu;
  int index = 0;
};

NamedDevice parse(std::string_view name) {
  if (name == "auto") return {cuda::device_count() > 0 ? DeviceKind::cuda : DeviceKind::cpu, 0};
  if (name == "cpu") return {};
  if (name == "ref") return {DeviceKind::ref, 0};
  if (name == "cuda") return {DeviceKind::cuda, 0};
  constexpr std::string_view kPrefix = "cuda:";
  if (name.starts_with(kPrefix)) {
    const std::string_view digits = name.substr(kPrefix.size());
    NamedDevice device{DeviceKind::cuda, 0};
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), device.index);
    if (error == std::errc() && end == digits.data() + digits.size() && device.index >= 0) return device;
  }
  throw_error("--device: expected auto, cpu, ref, cuda or cuda:N, found \"{}\"", name);
}

}  // namespace

const Backend& backend_of(DeviceKind kind) {
  switch (kind) {
    case DeviceKind::cpu:
      return cpu::backend();
    case DeviceKind::ref:
      return ref_device::backend();
    case DeviceKind::cuda:
      return cuda::backend();
  }
  return cpu::backend();
}

WeightMatrix slice_chunks(const Backend& backend, const WeightMatrix& matrix, int64_t first, int64_t count) {
  const int64_t offset =
      matrix.layout.splits_n() && first > 0 ? backend.output_chunk_offset(matrix.layout, first) : 0;
  return {slice_in_place(matrix.layout, first, count), matrix.data + offset};
}

DeviceKind kind_of_device(std::string_view name) {
  return parse(name).kind;
}

std::unique_ptr<DeviceDriver> open_device(std::string_view name) {
  const NamedDevice device = parse(name);
  switch (device.kind) {
    case DeviceKind::cpu:
      return nullptr;
    case DeviceKind::ref:
      return ref_device::open();
    case DeviceKind::cuda:
      return cuda::open(device.index);
  }
  return nullptr;
}

}  // namespace chorale
