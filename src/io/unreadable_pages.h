// Pages of a mapped file that cannot be read: the file was shortened, its disk or its server has failed. The
// kernel tells it with SIGBUS, which would end the process without a word.
//
// A file that is mapped is read by plain loads, at the speed of memory, so there is no call that could return
// an error. While a mapping is watched, a load that fails finds zeros in place of the page, and the place is
// noted; whoever reads asks afterwards. Nothing is thrown and no frame is skipped. A SIGBUS outside of all
// watched mappings does what it did.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>

namespace chorale::io {

// Thread-safe. The mapping is private and read-only, and outlives this object.
class UnreadablePages {
 public:
  explicit UnreadablePages(std::span<const std::byte> mapping);
  ~UnreadablePages();
  UnreadablePages(const UnreadablePages&) = delete;
  UnreadablePages& operator=(const UnreadablePages&) = delete;

  // The least offset at which a load has failed; nullopt while all could be read. From there on the mapping
  // holds zeros.
  std::optional<size_t> first() const;

 private:
  struct Watch;
  struct Registry;
  struct Handler;
  static Registry& registry();
  Watch* watch_;  // the registry's
};

}  // namespace chorale::io
