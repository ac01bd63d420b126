#include "source_dir.h"

namespace chorale {

// The one file that is compiled with the path, so that compilers' caches have all others wherever the tree
// lies.
std::filesystem::path source_dir() {
  return CHORALE_SOURCE_DIR;
}

}  // namespace chorale
