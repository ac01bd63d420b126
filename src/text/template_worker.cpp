// The other side of text/template_process.h: what the program does in a process for chat templates.
//
// It runs before main() and before most of the program is set up, so that every program that is linked to
// this layer can start one of itself; hence no streams and no logging here.
#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string>

#include <fcntl.h>
#include <malloc.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

#include "text/crate.h"
#include "text/template_process.h"
#include "text/template_wire.h"

namespace chorale::text {
namespace {

constexpr int kChannel = STDIN_FILENO;
// Bytes of memory for a byte of variables: a number of two characters becomes a value in a list.
constexpr uint64_t kMemoryOfVariables = 32;
constexpr uint64_t kMuch = uint64_t{64} << 20;  // that is kept after a rendering, at most

bool read_all(void* to, size_t size) {
  auto* at = static_cast<char*>(to);
  while (size > 0) {
    const ssize_t got = read(kChannel, at, size);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    at += got;
    size -= static_cast<size_t>(got);
  }
  return true;
}

bool write_all(const void* from, size_t size) {
  const auto* at = static_cast<const char*>(from);
  while (size > 0) {
    const ssize_t sent = write(kChannel, at, size);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return false;
    at += sent;
    size -= static_cast<size_t>(sent);
  }
  return true;
}

bool answer(Outcome outcome, std::string_view text) {
  const uint64_t head[] = {static_cast<uint64_t>(outcome), text.size()};
  return write_all(head, sizeof head) && write_all(text.data(), text.size());
}

// The address space that is taken now; 0 when it cannot be told.
uint64_t taken_memory() {
  char text[64] = {};
  const int file = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
  if (file < 0) return 0;
  const ssize_t size = read(file, text, sizeof text - 1);
  close(file);
  return size <= 0 ? 0 : std::strtoull(text, nullptr, 10) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

void limit_memory(uint64_t bytes) {
  rlimit limit = {};
  getrlimit(RLIMIT_AS, &limit);
  limit.rlim_cur = std::min<rlim_t>(bytes, limit.rlim_max);
  setrlimit(RLIMIT_AS, &limit);
}

// Counts the processor's time; when it is over, SIGPROF ends the process.
void limit_time(std::chrono::milliseconds time) {
  itimerval timer = {};
  timer.it_value.tv_sec = static_cast<time_t>(time.count() / 1000);
  timer.it_value.tv_usec = static_cast<suseconds_t>(time.count() % 1000 * 1000);
  setitimer(ITIMER_PROF, &timer, nullptr);
}

// What happens to the one that started this process is no matter of this one's: it ends when its channel
// does. When memory is short it is the first to go, and it leaves no picture of itself behind.
void settle_in() {
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE}) std::signal(number, SIG_IGN);
  const rlimit none = {0, 0};
  setrlimit(RLIMIT_CORE, &none);
  const int file = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (file < 0) return;
  [[maybe_unused]] const ssize_t ignored = write(file, "1000", 4);
  close(file);
}

std::optional<TemplateSources> read_sources() {
  uint64_t head[3] = {};  // processor time, memory, kind
  if (!read_all(head, sizeof head)) return std::nullopt;
  TemplateSources sources;
  sources.limits.processor_time = std::chrono::milliseconds(head[0]);
  sources.limits.memory = head[1];
  sources.kind = static_cast<TemplateSources::Kind>(head[2]);
  for (std::optional<std::string>& text : sources.texts) {
    uint64_t size = 0;
    if (!read_all(&size, sizeof size)) return std::nullopt;
    if (size == kAbsentText) continue;
    text.emplace(size, '\0');
    if (!read_all(text->data(), text->size())) return std::nullopt;
  }
  return sources;
}

struct DestroyTemplate {
  void operator()(chorale_chat_template* chat_template) const {
    chorale_chat_template_destroy(chat_template);
  }
};
using TemplateHandle = std::unique_ptr<chorale_chat_template, DestroyTemplate>;

// Null when there is none, or it cannot be used; what is answered tells which.
TemplateHandle load(const TemplateSources& sources) {
  std::array<chorale_text_view, 3> views{};
  for (size_t i = 0; i < views.size(); ++i)
    views[i] = view_of(sources.texts[i] ? std::string_view(*sources.texts[i]) : std::string_view());
  const auto present = [&](size_t i) { return sources.texts[i] ? &views[i] : nullptr; };
  chorale_chat_template* chat_template = nullptr;
  chorale_text_bytes error{};
  const int32_t status =
      sources.kind == TemplateSources::Kind::files
          ? chorale_chat_template_load(present(0), present(1), present(2), &chat_template, &error)
          : chorale_chat_template_create(views[0], views[1], views[2], &chat_template, &error);
  limit_time({});
  if (status == CHORALE_TEXT_OK)
    answer(Outcome::done, "");
  else if (status == CHORALE_TEXT_ABSENT)
    answer(Outcome::absent, "");
  else
    answer(Outcome::failed, take(error));
  return TemplateHandle(chat_template);
}

bool render(const chorale_chat_template* chat_template, std::string_view variables) {
  chorale_text_bytes text{};
  chorale_text_bytes error{};
  const bool done =
      chorale_chat_template_render(chat_template, view_of(variables), &text, &error) == CHORALE_TEXT_OK;
  limit_time({});
  const chorale_text_bytes& bytes = done ? text : error;
  const bool sent = answer(done ? Outcome::done : Outcome::failed, text_of({bytes.data, bytes.size}));
  chorale_text_bytes_free(bytes);
  return sent;
}

void serve() {
  settle_in();
  const std::optional<TemplateSources> sources = read_sources();
  if (!sources) return;
  const RenderingLimits& limits = sources->limits;
  const uint64_t taken = taken_memory();  // with a sanitizer, more than there is
  const auto begin = [&](uint64_t bytes) {
    if (taken > 0) limit_memory(taken + limits.memory + kMemoryOfVariables * bytes);
    limit_time(limits.processor_time);
  };
  begin(0);
  const TemplateHandle chat_template = load(*sources);
  if (!chat_template) return;
  for (;;) {
    uint64_t size = 0;
    if (!read_all(&size, sizeof size)) return;
    begin(size);
    std::string variables(size, '\0');
    if (!read_all(variables.data(), variables.size()) || !render(chat_template.get(), variables)) return;
    if (taken_memory() > taken + kMuch) malloc_trim(0);
  }
}

__attribute__((constructor)) void become_a_template_process(int argc, char** argv, char**) {
  if (argc != 1 || std::strcmp(argv[0], kTemplateProcessName) != 0) return;
  serve();
  _exit(0);
}

}  // namespace

// Here, so that whoever starts such a process has what follows linked, too.
const char* const kTemplateProcessName = "chorale: chat template";

}  // namespace chorale::text
