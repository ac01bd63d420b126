#include "comm/nccl/nccl_library.h"

#include <cstdlib>
#include <mutex>
#include <optional>

#include <dlfcn.h>
#include <fmt/format.h>

#include "base/error.h"

namespace chorale::comm::nccl {
namespace {

constexpr const char* kVariable = "CHORALE_NCCL";

struct Loaded {
  Library library{};
  std::string failure;
};

std::string advice(const std::string& reason) {
  return fmt::format(
      "NCCL cannot be used: {}; install it (pip install nvidia-nccl-cu13) and name its libnccl.so.2 in {}",
      reason, kVariable);
}

std::string version_text(int version) {
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

Loaded load() {
  Loaded loaded;
  const char* const named = std::getenv(kVariable);
  const std::string file = named != nullptr && *named != '\0' ? named : "libnccl.so.2";
  void* const handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* const error = dlerror();
    loaded.failure = advice(error != nullptr ? error : file + " cannot be loaded");
    return loaded;
  }
  const auto find = [&](auto& function, const char* name) {
    void* const symbol = dlsym(handle, name);
    if (symbol == nullptr && loaded.failure.empty())
      loaded.failure = advice(fmt::format("{} has no {}", file, name));
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(symbol);
  };
  Library& library = loaded.library;
  find(library.GetVersion, "ncclGetVersion");
  find(library.GetErrorString, "ncclGetErrorString");
  find(library.GetLastError, "ncclGetLastError");
  find(library.GetUniqueId, "ncclGetUniqueId");
  find(library.CommInitRank, "ncclCommInitRank");
  find(library.CommSplit, "ncclCommSplit");
  find(library.CommAbort, "ncclCommAbort");
  find(library.CommGetAsyncError, "ncclCommGetAsyncError");
  find(library.GroupStart, "ncclGroupStart");
  find(library.GroupEnd, "ncclGroupEnd");
  find(library.ReduceScatter, "ncclReduceScatter");
  find(library.Reduce, "ncclReduce");
  find(library.AllGather, "ncclAllGather");
  find(library.Broadcast, "ncclBroadcast");
  find(library.Send, "ncclSend");
  find(library.Recv, "ncclRecv");
  if (!loaded.failure.empty()) return loaded;
  int version = 0;
  if (library.GetVersion(&version) != kSuccess || version < kLeastVersion) {
    loaded.failure = advice(fmt::format("expected version {} or later, found {}", version_text(kLeastVersion),
                                        version_text(version)));
  }
  return loaded;
}

const Loaded& loaded_once() {
  static const Loaded loaded = load();
  return loaded;
}

}  // namespace

const Library& library() {
  const Loaded& loaded = loaded_once();
  if (!loaded.failure.empty()) throw Error(loaded.failure);
  return loaded.library;
}

std::string why_there_is_none() {
  return loaded_once().failure;
}

void Library::check(int result, std::string_view call, int device, Comm comm) const {
  if (result == kSuccess || result == kInProgress) return;
  const char* const detail = GetLastError(comm);
  throw_error("cuda:{}: {} failed: {}{}{}", device, call, GetErrorString(result),
              detail != nullptr && *detail != '\0' ? ": " : "", detail != nullptr ? detail : "");
}

}  // namespace chorale::comm::nccl
