#include "base/error.h"

#include <cstdio>
#include <cstdlib>

#include "base/log.h"

namespace chorale {

void fatal(std::string_view message) {
  log::critical("{}", message);
  log::flush();
  std::_Exit(70);
}

void check_failed(const char* file, int line, const char* condition, std::string_view detail) {
  std::fprintf(stderr, "%s:%d: check failed: %s%s%.*s\n", file, line, condition, detail.empty() ? "" : ": ",
               static_cast<int>(detail.size()), detail.data());
  std::abort();
}

}  // namespace chorale
