// How many random cases a property is tried on.
#pragma once

namespace chorale {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif
#else
inline constexpr bool kSanitized = false;
#endif

// With sanitizers a case takes up to 70 times as long, and what they look for shows in the first ones: a
// tenth of them.
constexpr int random_cases(int count) {
  return kSanitized ? (count + 9) / 10 : count;
}

}  // namespace chorale
