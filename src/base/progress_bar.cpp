#include "base/progress_bar.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

#include <fmt/format.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory_info.h"

namespace chorale {
namespace {

constexpr auto kBarInterval = std::chrono::milliseconds(100);
constexpr auto kLineInterval = std::chrono::seconds(5);
constexpr int kBarWidth = 30;

}  // namespace

std::string progress_line(const std::string& label, uint64_t done, uint64_t total, double seconds,
                          int bar_width, ProgressUnit unit) {
  const double part =
      total == 0 ? 1.0 : std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
  const double rate = seconds > 0 ? static_cast<double>(done) / seconds : 0;
  std::string bar;
  if (bar_width > 0) {
    const auto filled = static_cast<size_t>(part * bar_width);
    bar = fmt::format("  [{}{}]", std::string(filled, '#'),
                      std::string(static_cast<size_t>(bar_width) - filled, '-'));
  }
  const std::string left =
      rate > 0 && done < total
          ? fmt::format(", {:.0f} s left", std::ceil(static_cast<double>(total - done) / rate))
          : "";
  if (unit == ProgressUnit::part) return fmt::format("{}{}  {:3.0f}%{}", label, bar, 100 * part, left);
  return fmt::format("{}{}  {:3.0f}%  {} of {}, {:.2f} GB/s{}", label, bar, 100 * part, format_bytes(done),
                     format_bytes(total), rate / 1e9, left);
}

ProgressBar::ProgressBar(std::string label, uint64_t total, bool enabled, ProgressUnit unit)
    : label_(std::move(label)),
      total_(total),
      unit_(unit),
      at_terminal_(isatty(STDERR_FILENO) != 0),
      start_(std::chrono::steady_clock::now()) {
  if (enabled) thread_ = std::thread([this] { run(); });
}

ProgressBar::~ProgressBar() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  wake_.notify_one();
  thread_.join();
  if (at_terminal_) {
    show();
    std::fputc('\n', stderr);
  }
}

void ProgressBar::show() const {
  if (at_terminal_) {
    fmt::print(stderr, "\r{}\x1b[K", progress_line(label_, done(), total_, seconds(), kBarWidth, unit_));
  } else {
    log::info("{}", progress_line(label_, done(), total_, seconds(), 0, unit_));
  }
}

void ProgressBar::run() {
  std::unique_lock lock(mutex_);
  const std::chrono::milliseconds interval = at_terminal_ ? kBarInterval : kLineInterval;
  while (!wake_.wait_for(lock, interval, [this] { return ended_; })) show();
}

}  // namespace chorale
