// Decode steps that a device keeps as one piece of work: what the host does for a step of hundreds of ops is
// then one call. A step's recording serves all steps of as many rows and, roughly, as long block tables.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>

#include "base/device.h"
#include "base/tensor.h"
#include "engine/model_runner.h"

namespace chorale::engine {

// What the work depends on, but for the contents of memory.
struct StepShape {
  int64_t rows = 0;          // sequences, of each of which one token is computed and its logits are wanted
  int64_t table_blocks = 0;  // entries of the block tables, rounded up
  int64_t most_tokens = 0;   // of any data-parallel group, rounded up
  friend auto operator<=>(const StepShape&, const StepShape&) = default;
};

// The shape of a step that decodes and does nothing else, which can be recorded.
std::optional<StepShape> decode_shape(const StepPlan& plan, int64_t max_table_blocks, int64_t most_tokens);

// The tokens of the largest group, so that there are few different numbers of them.
int64_t round_up_tokens(int64_t most_tokens);

// Used by one thread at a time.
class StepRecordings {
 public:
  struct Step {
    std::unique_ptr<Recording> work;
    Tensor logits;
    comm::Traffic traffic = {};  // of the step
  };

  // The step of this shape, or nothing.
  const Step* find(const StepShape& shape);
  // Whether it is worth recording: the shape has been looked for before.
  bool is_worthwhile(const StepShape& shape) const;
  // Takes the place of the one that was not used for longest where there are too many.
  const Step& add(const StepShape& shape, Step step);
  // Forgets all. None of them may be under way.
  void clear() { entries_.clear(); }

 private:
  struct Entry {
    Step step;  // without work: only looked for
    uint64_t last_use = 0;
  };
  void make_room();

  std::map<StepShape, Entry> entries_;
  uint64_t uses_ = 0;
};

}  // namespace chorale::engine
