// Which of a rank's slots of token counts (kernels/sample.h) each running sequence of a data-parallel group
// has. Pure bookkeeping. Not thread-safe.
#pragma once

#include <vector>

#include "engine/sequence.h"

namespace chorale::engine {

class CountSlots {
 public:
  // Gives the running sequence a slot, unless it has one; true when it is new, and nothing is counted in it
  // yet. There are never more slots than sequences that run at once.
  bool take(Sequence& sequence);
  // Takes it back, where there is one.
  void release(Sequence& sequence);
  // Takes back those of sequences that do not run any more: preempted ones.
  void release_preempted();

 private:
  std::vector<Sequence*> owners_;  // by slot; null: nobody's
};

}  // namespace chorale::engine
