#include "engine/step_message.h"

#include "base/error.h"

namespace chorale::engine {
namespace {

void append(std::vector<int32_t>& message, std::span<const int32_t> values) {
  message.push_back(static_cast<int32_t>(values.size()));
  message.insert(message.end(), values.begin(), values.end());
}

class Reader {
 public:
  explicit Reader(std::span<const int32_t> message) : left_(message) {}

  int32_t next() {
    CHORALE_CHECK(!left_.empty(), "a step ends too early");
    const int32_t value = left_.front();
    left_ = left_.subspan(1);
    return value;
  }
  void read(std::vector<int32_t>& values) {
    const auto size = static_cast<size_t>(next());
    CHORALE_CHECK(size <= left_.size(), "a step of {} values ends after {}", size, left_.size());
    values.assign(left_.begin(), left_.begin() + static_cast<ptrdiff_t>(size));
    left_ = left_.subspan(size);
  }
  bool done() const { return left_.empty(); }

 private:
  std::span<const int32_t> left_;
};

}  // namespace

void write_step(std::span<const StepPlan* const> plans, std::vector<int32_t>& message) {
  message.clear();
  for (const StepPlan* plan : plans) {
    append(message, plan->token_ids);
    append(message, plan->block_tables);
    append(message, plan->logits_tokens);
    message.push_back(static_cast<int32_t>(plan->chunks.size()));
    for (const SequenceChunk& chunk : plan->chunks) {
      for (const int64_t value : {chunk.first_token, chunk.num_tokens, chunk.first_position,
                                  chunk.first_block_index, chunk.num_blocks}) {
        message.push_back(static_cast<int32_t>(value));
      }
    }
  }
}

void read_step(std::span<const int32_t> message, std::span<StepPlan> plans) {
  Reader reader(message);
  for (StepPlan& plan : plans) {
    reader.read(plan.token_ids);
    reader.read(plan.block_tables);
    reader.read(plan.logits_tokens);
    plan.chunks.resize(static_cast<size_t>(reader.next()));
    for (SequenceChunk& chunk : plan.chunks) {
      chunk.first_token = reader.next();
      chunk.num_tokens = reader.next();
      chunk.first_position = reader.next();
      chunk.first_block_index = reader.next();
      chunk.num_blocks = reader.next();
    }
  }
  CHORALE_CHECK(reader.done(), "a step has more than its groups");
}

}  // namespace chorale::engine
