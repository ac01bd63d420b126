#include "engine/outbox.h"

#include <algorithm>
#include <cstdint>
#include <utility>

namespace chorale::engine {

GenerationEvent& Outbox::add(Sequence& sequence) {
  GenerationEvent& event = entries_.emplace_back(Entry{&sequence, {}}).event;
  event.prompt_logprobs = std::exchange(sequence.prompt_logprobs, {});
  event.num_prompt_tokens = sequence.num_prompt;
  event.num_completion_tokens = sequence.num_output();
  event.num_cached_tokens = std::max<int64_t>(sequence.num_cached, 0);
  event.queue_seconds = std::max(sequence.queue_seconds, 0.0);
  return event;
}

void Outbox::deliver(const std::function<void(const Sequence&)>& finished) {
  for (Entry& entry : entries_) {
    const bool last = entry.is_last();
    entry.sequence->listener(std::move(entry.event));
    if (last) finished(*entry.sequence);
  }
  entries_.clear();
}

}  // namespace chorale::engine
