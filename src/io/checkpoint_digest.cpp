#include "io/checkpoint_digest.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "base/digest.h"
#include "io/file_access.h"

namespace chorale::io {
namespace {

constexpr uint64_t kSampledBytes = uint64_t{32} << 20;
constexpr size_t kPiece = 512;

// `budget` bytes at least, where there are as many.
uint64_t sample_of(std::span<const std::byte> bytes, uint64_t budget) {
  Digest digest;
  if (bytes.size() <= std::max<uint64_t>(budget, kPiece)) {
    digest.add(bytes);
    return digest.value();
  }
  const size_t pieces =
      std::max<size_t>(2, (budget + kPiece - 1) / kPiece);  // the first and the last among them
  const size_t last = bytes.size() - kPiece;
  for (size_t i = 0; i < pieces; ++i) {
    const auto at = static_cast<size_t>(static_cast<double>(last) * static_cast<double>(i) /
                                        static_cast<double>(pieces - 1));
    digest.add(bytes.subspan(std::min(at, last), kPiece));
  }
  return digest.value();
}

}  // namespace

std::string digest_of_file(const std::filesystem::path& file) {
  if (!has_entry(file)) return "none";
  const MappedFile mapped(file);
  Digest digest;
  digest.add(mapped.bytes());
  mapped.check_read();
  return digest.text();
}

std::string digest_of_headers(const Checkpoint& checkpoint) {
  Digest digest;
  for (const TensorEntry& tensor : checkpoint.tensors()) {
    digest.add(tensor.name);
    digest.add(tensor.file);
    digest.add(name_of(tensor.dtype));
    digest.add(tensor.shape.size());
    for (const int64_t size : tensor.shape) digest.add(static_cast<uint64_t>(size));
    digest.add(tensor.bytes.size());
  }
  return digest.text();
}

std::string digest_of_samples(const Checkpoint& checkpoint, ThreadPool& pool) {
  const auto tensors = checkpoint.tensors();
  const uint64_t total = std::max<uint64_t>(checkpoint.total_bytes(), 1);
  const double share = std::min(1.0, static_cast<double>(kSampledBytes) / static_cast<double>(total));
  std::vector<uint64_t> samples(tensors.size());
  pool.parallel(static_cast<int64_t>(tensors.size()), [&](int64_t index) {
    const auto i = static_cast<size_t>(index);
    if (!checkpoint.could_read()) return;
    const double budget = std::ceil(share * static_cast<double>(tensors[i].bytes.size()));
    samples[i] = sample_of(tensors[i].bytes, static_cast<uint64_t>(budget));
    checkpoint.release(tensors[i]);
  });
  checkpoint.check_read();
  Digest digest;
  for (const uint64_t sample : samples) digest.add(sample);
  return digest.text();
}

}  // namespace chorale::io
