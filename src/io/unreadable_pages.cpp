#include "io/unreadable_pages.h"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <mutex>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"

namespace chorale::io {
namespace {

constexpr size_t kNone = SIZE_MAX;

}  // namespace

// A place in the registry, taken while begin is not 0.
struct UnreadablePages::Watch {
  std::atomic<uintptr_t> begin{0}, end{0};
  std::atomic<size_t> first{kNone};
  Watch* next = nullptr;  // constant once it is in the list
};

// A signal handler has no other way to what it needs than through a static. It takes no lock: places are only
// ever added to the list, and used again.
struct UnreadablePages::Registry {
  std::mutex mutex;  // of those that add
  std::vector<std::unique_ptr<Watch>> watches;
  std::atomic<Watch*> list{nullptr};
  struct sigaction before = {};  // what SIGBUS did
  uintptr_t page_bytes = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));

  Registry();
  ~Registry() { list.store(nullptr); }
  Watch* add(std::span<const std::byte> mapping);
};

static_assert(std::atomic<uintptr_t>::is_always_lock_free && std::atomic<size_t>::is_always_lock_free);

struct UnreadablePages::Handler {
  // Whether the fault is one of a watched mapping, whose rest is then zeros.
  static bool take(uintptr_t address) {
    const Registry& all = registry();
    for (Watch* watch = all.list.load(std::memory_order_acquire); watch != nullptr; watch = watch->next) {
      const uintptr_t begin = watch->begin.load(), end = watch->end.load();
      if (begin == 0 || address < begin || address >= end) continue;
      size_t first = watch->first.load();
      while (address - begin < first && !watch->first.compare_exchange_weak(first, address - begin)) {
      }
      const uintptr_t page = address / all.page_bytes * all.page_bytes;
      // mmap is a system call without a lock of the library's own.
      return mmap(reinterpret_cast<void*>(page), end - page, PROT_READ,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED;
    }
    return false;
  }

  static void run(int, siginfo_t* info, void*) {
    const int saved = errno;
    const bool is_fault = info->si_code > 0;
    if (!is_fault || !take(reinterpret_cast<uintptr_t>(info->si_addr))) {
      // A fault comes again as soon as this returns, and a signal that was sent is sent again.
      sigaction(SIGBUS, &registry().before, nullptr);
      if (!is_fault) raise(SIGBUS);
    }
    errno = saved;
  }
};

UnreadablePages::Registry::Registry() {
  struct sigaction action = {};
  action.sa_sigaction = Handler::run;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  sigaction(SIGBUS, &action, &before);
}

UnreadablePages::Watch* UnreadablePages::Registry::add(std::span<const std::byte> mapping) {
  const std::lock_guard lock(mutex);
  Watch* free = nullptr;
  for (const auto& watch : watches)
    if (watch->begin.load() == 0) free = watch.get();
  const bool is_new = free == nullptr;
  if (is_new) free = watches.emplace_back(std::make_unique<Watch>()).get();
  const auto begin = reinterpret_cast<uintptr_t>(mapping.data());
  free->first.store(kNone);
  free->end.store(begin + mapping.size());
  free->begin.store(begin);
  if (is_new) {
    free->next = list.load();
    list.store(free, std::memory_order_release);
  }
  return free;
}

// Made by the first mapping, before any handler can run.
UnreadablePages::Registry& UnreadablePages::registry() {
  static Registry all;
  return all;
}

UnreadablePages::UnreadablePages(std::span<const std::byte> mapping) : watch_(registry().add(mapping)) {}

UnreadablePages::~UnreadablePages() {
  watch_->begin.store(0);
}

std::optional<size_t> UnreadablePages::first() const {
  const size_t first = watch_->first.load(std::memory_order_relaxed);
  return first == kNone ? std::nullopt : std::optional(first);
}

}  // namespace chorale::io
