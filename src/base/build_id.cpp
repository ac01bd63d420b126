#include "base/build_id.h"

#include <cstddef>
#include <cstring>

#include <elf.h>
#include <fmt/format.h>
#include <link.h>

namespace chorale {
namespace {

size_t padded(size_t size) {
  return (size + 3) / 4 * 4;
}

// Of one segment of notes: each a header, a name and its contents, the latter two padded to words.
std::string id_among(const char* notes, size_t size) {
  for (size_t at = 0; at + sizeof(ElfW(Nhdr)) <= size;) {
    ElfW(Nhdr) note;
    std::memcpy(&note, notes + at, sizeof note);
    const size_t name = at + sizeof note;
    const size_t contents = name + padded(note.n_namesz);
    const size_t end = contents + padded(note.n_descsz);
    if (end > size) break;
    if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 && std::memcmp(notes + name, "GNU", 4) == 0) {
      std::string id;
      for (size_t i = 0; i < note.n_descsz; ++i)
        id += fmt::format("{:02x}", static_cast<unsigned char>(notes[contents + i]));
      return id;
    }
    at = end;
  }
  return "";
}

// The program itself comes first, which ends the search.
int look_into(dl_phdr_info* info, size_t, void* out) {
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const ElfW(Phdr)& segment = info->dlpi_phdr[i];
    if (segment.p_type != PT_NOTE) continue;
    std::string id =
        id_among(reinterpret_cast<const char*>(info->dlpi_addr + segment.p_vaddr), segment.p_memsz);
    if (id.empty()) continue;
    *static_cast<std::string*>(out) = std::move(id);
    break;
  }
  return 1;
}

}  // namespace

std::string build_id() {
  std::string id;
  dl_iterate_phdr(look_into, &id);
  return id;
}

}  // namespace chorale
