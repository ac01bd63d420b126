#include "engine/step_message.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>
#include <type_traits>

#include "base/error.h"

namespace chorale::engine {
namespace {

// Values of any type whose bytes are those of whole numbers.
template <typename T>
void append(std::vector<int32_t>& message, std::span<const T> values) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) % sizeof(int32_t) == 0);
  const size_t size = values.size_bytes() / sizeof(int32_t);
  message.push_back(static_cast<int32_t>(size));
  message.resize(message.size() + size);
  if (size > 0) std::memcpy(message.data() + message.size() - size, values.data(), values.size_bytes());
}
template <typename T>
void append(std::vector<int32_t>& message, const std::vector<T>& values) {
  append(message, std::span<const T>(values));
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
  std::span<const int32_t> next_span() {
    const auto size = static_cast<size_t>(next());
    CHORALE_CHECK(size <= left_.size(), "a step of {} values ends after {}", size, left_.size());
    const std::span<const int32_t> values = left_.first(size);
    left_ = left_.subspan(size);
    return values;
  }
  template <typename T>
  void read(std::vector<T>& values) {
    const std::span<const int32_t> numbers = next_span();
    values.resize(numbers.size_bytes() / sizeof(T));
    const std::span<std::byte> bytes = std::as_writable_bytes(std::span(values));
    if (!bytes.empty()) std::memcpy(bytes.data(), numbers.data(), bytes.size());
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

void write_sampling(std::span<const SamplePlan* const> plans, std::vector<int32_t>& message) {
  message.clear();
  for (const SamplePlan* plan : plans) {
    append(message, plan->params);
    append(message, plan->bias_offsets);
    append(message, plan->bias_tokens);
    append(message, plan->biases);
    append(message, plan->texts);
    append(message, plan->text_tokens);
    message.push_back(static_cast<int32_t>(plan->masks.size()));
    for (const std::span<const uint32_t> mask : plan->masks) append(message, mask);
  }
}

void read_sampling(std::span<const int32_t> message, std::span<SamplePlan> plans) {
  Reader reader(message);
  for (SamplePlan& plan : plans) {
    reader.read(plan.params);
    reader.read(plan.bias_offsets);
    reader.read(plan.bias_tokens);
    reader.read(plan.biases);
    reader.read(plan.texts);
    reader.read(plan.text_tokens);
    plan.masks.resize(static_cast<size_t>(reader.next()));
    for (std::span<const uint32_t>& mask : plan.masks) {
      const std::span<const int32_t> words = reader.next_span();
      mask = {reinterpret_cast<const uint32_t*>(words.data()), words.size()};
    }
  }
  CHORALE_CHECK(reader.done(), "a step has more than its groups");
}

int64_t sampled_columns(int64_t most) {
  return most < 0 ? 2 : 2 + 1 + 2 * most;
}

void write_sampled(const SampledStep& step, int64_t most, std::vector<int32_t>& rows) {
  rows.clear();
  for (size_t r = 0; r < step.tokens.size(); ++r) {
    rows.push_back(step.tokens[r]);
    rows.push_back(step.statuses[r]);
    if (most < 0) continue;
    const auto add = [&](int64_t count, auto values, auto filler) {
      for (int64_t i = 0; i < count; ++i) {
        rows.push_back(
            std::bit_cast<int32_t>(i < std::ssize(values) ? values[static_cast<size_t>(i)] : filler));
      }
    };
    // The group's rows may have fewer alternatives than others', or none.
    const auto own = static_cast<size_t>(step.most);
    const bool has_logprobs = !step.logprobs.empty();
    add(1 + most, has_logprobs ? step.logprobs.subspan(r * (1 + own), 1 + own) : step.logprobs, 0.0F);
    add(most, has_logprobs ? step.top_tokens.subspan(r * own, own) : step.top_tokens, -1);
  }
}

SampledStep SampledValues::view() const {
  return {
      .tokens = tokens, .statuses = statuses, .logprobs = logprobs, .top_tokens = top_tokens, .most = most};
}

void read_sampled(std::span<const int32_t> rows, int64_t most, SampledValues& values) {
  values.tokens.clear();
  values.statuses.clear();
  values.logprobs.clear();
  values.top_tokens.clear();
  values.most = std::max<int64_t>(most, 0);
  const auto columns = static_cast<size_t>(sampled_columns(most));
  for (; !rows.empty(); rows = rows.subspan(columns)) {
    values.tokens.push_back(rows[0]);
    values.statuses.push_back(rows[1]);
    if (most < 0) continue;
    const auto top = static_cast<size_t>(most);
    for (const int32_t bits : rows.subspan(2, 1 + top)) values.logprobs.push_back(std::bit_cast<float>(bits));
    const auto top_tokens = rows.subspan(3 + top, top);
    values.top_tokens.insert(values.top_tokens.end(), top_tokens.begin(), top_tokens.end());
  }
}

}  // namespace chorale::engine
