// Waiting for another thread that is about to do something: a thread that sleeps and is woken loses more
// time.
#pragma once

#if !defined(__x86_64__)
#include <thread>
#endif

namespace chorale {

// About 20 microseconds of spinning before a thread sleeps: longer than the gap between two ops of a step,
// and short enough that an idle server costs nothing.
inline constexpr int kSpinsBeforeSleep = 2000;

// Between two looks at what is waited for.
inline void relax_processor() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

}  // namespace chorale
