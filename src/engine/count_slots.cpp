#include "engine/count_slots.h"

#include <algorithm>

namespace chorale::engine {

bool CountSlots::take(Sequence& sequence) {
  if (sequence.count_slot >= 0) return false;
  auto free = std::ranges::find(owners_, nullptr);
  if (free == owners_.end()) free = owners_.insert(owners_.end(), nullptr);
  *free = &sequence;
  sequence.count_slot = static_cast<int32_t>(free - owners_.begin());
  return true;
}

void CountSlots::release(Sequence& sequence) {
  if (sequence.count_slot < 0) return;
  owners_[static_cast<size_t>(sequence.count_slot)] = nullptr;
  sequence.count_slot = -1;
}

void CountSlots::release_preempted() {
  for (Sequence* owner : owners_) {
    if (owner != nullptr && owner->phase != Phase::running) release(*owner);
  }
}

}  // namespace chorale::engine
