// Events on their way to the listeners of requests. Used by the engine's thread alone.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "engine/sequence.h"

namespace chorale::engine {

class Outbox {
 public:
  struct Entry {
    Sequence* sequence = nullptr;
    GenerationEvent event;
    bool is_last() const { return event.finish != FinishReason::none; }
  };

  // A new event of the sequence, with its counts and the log probabilities of its prompt that were not told
  // yet. The reference is valid until the next event is added. The sequence must live until it was delivered.
  GenerationEvent& add(Sequence& sequence);

  // What deliver() will tell, in this order.
  std::span<const Entry> entries() const { return entries_; }

  // Calls the listeners, and `finished` after each sequence's last event. Nothing is left afterwards.
  void deliver(const std::function<void(const Sequence&)>& finished);

 private:
  std::vector<Entry> entries_;
};

}  // namespace chorale::engine
