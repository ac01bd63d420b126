#include "server/metrics/activity.h"

#include <algorithm>
#include <cstdint>

#include <fmt/format.h>

namespace chorale::server {
namespace {

constexpr std::chrono::seconds kWindow{10};

double rate(uint64_t now, uint64_t before, std::chrono::duration<double> time) {
  return static_cast<double>(now - before) / std::max(time.count(), 1e-3);
}

double percent(double part, double whole) {
  return whole > 0 ? 100 * part / whole : 0;
}

}  // namespace

void Activity::sample(const engine::EngineStats& stats, Time now) {
  const std::lock_guard lock(mutex_);
  samples_.push_back({now, stats});
  while (samples_.size() > 2 && samples_[1].time <= now - kWindow) samples_.pop_front();
}

double Activity::generation_rate() const {
  const std::lock_guard lock(mutex_);
  if (samples_.size() < 2) return 0;
  const Sample& first = samples_.front();
  const Sample& last = samples_.back();
  return rate(last.stats.generated_tokens, first.stats.generated_tokens, last.time - first.time);
}

std::optional<std::string> Activity::status_line(const engine::EngineStats& stats, Time now) {
  const std::lock_guard lock(mutex_);
  if (!last_line_) last_line_ = Sample{now, {}};
  const engine::EngineStats& before = last_line_->stats;
  const auto time = now - last_line_->time;
  const bool active = stats.steps != before.steps || stats.running + stats.waiting > 0;
  std::optional<std::string> line;
  if (active) {
    const auto looked_up = static_cast<double>(stats.prefix_queries - before.prefix_queries);
    line = fmt::format(
        "running {}, queued {}, KV cache {} of {} tokens ({:.1f}%), prefix hits {:.1f}%, prompt {:.1f} "
        "tokens/s, "
        "generated {:.1f} tokens/s",
        stats.running, stats.waiting, stats.kv_tokens_used, stats.kv_tokens_total,
        percent(static_cast<double>(stats.kv_tokens_used), static_cast<double>(stats.kv_tokens_total)),
        percent(static_cast<double>(stats.cached_tokens - before.cached_tokens), looked_up),
        rate(stats.prompt_tokens, before.prompt_tokens, time),
        rate(stats.generated_tokens, before.generated_tokens, time));
  }
  last_line_ = Sample{now, stats};
  return line;
}

}  // namespace chorale::server
