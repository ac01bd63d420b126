// Any bytes either parse to a header whose tensors tile the data section, or throw Error.
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/error.h"
#include "io/checkpoint.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  try {
    const chorale::io::SafetensorsHeader header =
        chorale::io::parse_safetensors_header(bytes, "fuzz.safetensors");
    uint64_t position = 0;
    for (const auto& tensor : header.tensors) {
      CHORALE_CHECK(tensor.begin == position && tensor.end >= tensor.begin,
                    "the tensors do not tile the data");
      position = tensor.end;
    }
    CHORALE_CHECK(header.data_start + position == size, "the header does not account for every byte");
  } catch (const chorale::Error&) {
    // refused, as it should be
  }
  return 0;
}
