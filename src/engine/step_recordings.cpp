#include "engine/step_recordings.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace chorale::engine {
namespace {

constexpr size_t kMaxEntries = 512;

}  // namespace

int64_t round_up_tokens(int64_t most_tokens) {
  return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(most_tokens)));
}

std::optional<StepShape> decode_shape(const StepPlan& plan, int64_t max_table_blocks, int64_t most_tokens) {
  const size_t rows = plan.chunks.size();
  if (rows == 0 || plan.token_ids.size() != rows || plan.logits_tokens.size() != rows) return std::nullopt;
  const auto blocks = static_cast<int64_t>(std::bit_ceil(plan.block_tables.size()));
  return StepShape{static_cast<int64_t>(rows), std::min(blocks, max_table_blocks),
                   round_up_tokens(most_tokens)};
}

const StepRecordings::Step* StepRecordings::find(const StepShape& shape) {
  const auto found = entries_.find(shape);
  if (found == entries_.end()) return nullptr;
  found->second.last_use = ++uses_;
  return found->second.step.work == nullptr ? nullptr : &found->second.step;
}

bool StepRecordings::is_worthwhile(const StepShape& shape) const {
  return entries_.contains(shape);
}

const StepRecordings::Step& StepRecordings::add(const StepShape& shape, Step step) {
  make_room();
  Entry& entry = entries_[shape];
  entry = {std::move(step), ++uses_};
  return entry.step;
}

void StepRecordings::make_room() {
  if (entries_.size() < kMaxEntries) return;
  const auto oldest =
      std::ranges::min_element(entries_, {}, [](const auto& entry) { return entry.second.last_use; });
  entries_.erase(oldest);
}

}  // namespace chorale::engine
