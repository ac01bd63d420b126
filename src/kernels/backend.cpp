#include "kernels/backend.h"

#include <charconv>

#include "base/error.h"
#include "kernels/cuda/runtime.h"

namespace chorale {

NamedDevice parse_device(std::string_view name) {
  if (name == "auto") return {cuda::device_count() > 0 ? DeviceKind::cuda : DeviceKind::cpu, {}};
  if (name == "cpu") return {};
  if (name == "ref") return {DeviceKind::ref, {}};
  if (name == "cuda") return {DeviceKind::cuda, {}};
  constexpr std::string_view kPrefix = "cuda:";
  if (name.starts_with(kPrefix)) {
    const std::string_view digits = name.substr(kPrefix.size());
    int index = -1;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
    if (error == std::errc() && end == digits.data() + digits.size() && index >= 0)
      return {DeviceKind::cuda, index};
  }
  throw_error("--device: expected auto, cpu, ref, cuda or cuda:N, found \"{}\"", name);
}

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
  return parse_device(name).kind;
}

std::unique_ptr<DeviceDriver> open_device(DeviceKind kind, int index) {
  switch (kind) {
    case DeviceKind::cpu:
      return nullptr;
    case DeviceKind::ref:
      return ref_device::open(index);
    case DeviceKind::cuda:
      return cuda::open(index);
  }
  return nullptr;
}

std::unique_ptr<DeviceDriver> open_device(std::string_view name) {
  const NamedDevice device = parse_device(name);
  return open_device(device.kind, device.index.value_or(0));
}

int count_devices(DeviceKind kind) {
  constexpr int kAny = 1024;  // they are made as they are asked for
  switch (kind) {
    case DeviceKind::cpu:
      return 1;
    case DeviceKind::ref:
      return kAny;
    case DeviceKind::cuda:
      return cuda::device_count();
  }
  return 0;
}

}  // namespace chorale
