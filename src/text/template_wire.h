// What a process for chat templates and the one that started it agree on. Private to this folder.
//
// The first message has the limits and the kind, and then each text behind its length. The others are a
// length and the variables. To each the process answers with an Outcome, a length, and a text. All numbers
// have 64 bits.
#pragma once

#include <cstdint>

namespace chorale::text {

// As ps shows it; by it the program knows what it was started for.
extern const char* const kTemplateProcessName;

// The length of a text that is absent.
inline constexpr uint64_t kAbsentText = UINT64_MAX;

enum class Outcome : uint64_t { done, failed, absent };

}  // namespace chorale::text
