// Sleeping in the kernel until a word changes, with a time limit, which std::atomic::wait has not.
#pragma once

#include <atomic>
#include <chrono>
#include <climits>
#include <cstdint>
#include <ctime>

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace chorale::comm::local {

static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t) &&
              std::atomic<uint32_t>::is_always_lock_free);

// Returns at once when the word is not `expected`, else when it is woken, interrupted, or the time is over;
// so the caller looks at the word again. Waits for ever when the time is not positive.
inline void futex_wait(const std::atomic<uint32_t>& word, uint32_t expected, std::chrono::nanoseconds time) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(time);
  timespec limit = {};
  limit.tv_sec = static_cast<time_t>(seconds.count());
  limit.tv_nsec = static_cast<long>((time - seconds).count());
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, expected, time.count() > 0 ? &limit : nullptr, nullptr, 0);
}

inline void futex_wake_all(const std::atomic<uint32_t>& word) {
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

}  // namespace chorale::comm::local
