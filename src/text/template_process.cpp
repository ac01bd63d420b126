#include "text/template_process.h"

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <initializer_list>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "text/template_wire.h"

namespace chorale::text {
namespace {

using Clock = std::chrono::steady_clock;

// For a process that is stopped, or gets no processor: its own clock then stands still.
constexpr std::chrono::seconds kPatience{60};
constexpr size_t kMostIdle = 4;

std::string_view bytes_of(const uint64_t& number) {
  return {reinterpret_cast<const char*>(&number), sizeof number};
}

// The first message.
std::string packed(const TemplateSources& sources) {
  std::string message;
  for (const uint64_t number : {static_cast<uint64_t>(sources.limits.processor_time.count()),
                                sources.limits.memory, static_cast<uint64_t>(sources.kind)})
    message += bytes_of(number);
  for (const std::optional<std::string>& text : sources.texts) {
    message += bytes_of(text ? text->size() : kAbsentText);
    if (text) message += *text;
  }
  return message;
}

// Attributes of a process to be started, which go with their scope.
class SpawnSettings {
 public:
  explicit SpawnSettings(int channel) {
    posix_spawn_file_actions_init(&files_);
    posix_spawn_file_actions_adddup2(&files_, channel, STDIN_FILENO);
    posix_spawn_file_actions_addopen(&files_, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&files_, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addclosefrom_np(&files_, STDERR_FILENO + 1);
    posix_spawnattr_init(&attributes_);
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(&attributes_, &none);
    posix_spawnattr_setsigdefault(&attributes_, &all);
    posix_spawnattr_setflags(&attributes_, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  }
  ~SpawnSettings() {
    posix_spawn_file_actions_destroy(&files_);
    posix_spawnattr_destroy(&attributes_);
  }
  SpawnSettings(const SpawnSettings&) = delete;
  SpawnSettings& operator=(const SpawnSettings&) = delete;

  int start(pid_t& pid) const {
    std::string name = kTemplateProcessName;
    char* arguments[] = {name.data(), nullptr};
    return posix_spawn(&pid, "/proc/self/exe", &files_, &attributes_, arguments, environ);
  }

 private:
  posix_spawn_file_actions_t files_;
  posix_spawnattr_t attributes_;
};

}  // namespace

struct TemplateProcesses::Answer {
  Outcome outcome = Outcome::failed;
  std::string text;
};

class TemplateProcesses::Process {
 public:
  // Throws Error when the system does not give one.
  Process() {
    int ends[2] = {-1, -1};
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
      throw_error("no process can be started for it: {}", std::strerror(errno));
    channel_ = ends[0];
    const int failure = SpawnSettings(ends[1]).start(pid_);
    close(ends[1]);
    if (failure == 0) return;
    close(channel_);
    throw_error("no process can be started for it: {}", std::strerror(failure));
  }
  ~Process() {
    close(channel_);
    if (pid_ < 0) return;
    kill(pid_, SIGKILL);
    end({});
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  // Sends a message and gives what is answered; a process that does not answer is at its end.
  Answer ask(std::initializer_list<std::string_view> message, const RenderingLimits& limits) {
    const Clock::time_point deadline = Clock::now() + kPatience;
    bool fine = true;
    for (const std::string_view part : message) fine = fine && send(part, deadline);
    std::array<uint64_t, 2> head = {};
    if (!fine || !receive(reinterpret_cast<char*>(head.data()), sizeof head, deadline))
      return give_up(limits);
    Answer answer{.outcome = static_cast<Outcome>(head[0]), .text = std::string(head[1], '\0')};
    if (!receive(answer.text.data(), answer.text.size(), deadline)) return give_up(limits);
    return answer;
  }

  bool is_alive() const {
    siginfo_t ended = {};
    return pid_ > 0 && waitid(P_PID, static_cast<id_t>(pid_), &ended, WEXITED | WNOHANG | WNOWAIT) == 0 &&
           ended.si_pid == 0;
  }

 private:
  bool send(std::string_view bytes, Clock::time_point deadline) {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(channel_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent > 0) bytes.remove_prefix(static_cast<size_t>(sent));
      if (sent <= 0 && !wait_for(POLLOUT, deadline)) return false;
    }
    return true;
  }

  bool receive(char* bytes, size_t size, Clock::time_point deadline) {
    for (size_t done = 0; done < size;) {
      const ssize_t got = recv(channel_, bytes + done, size - done, MSG_DONTWAIT);
      if (got == 0) return false;
      if (got > 0) done += static_cast<size_t>(got);
      if (got < 0 && !wait_for(POLLIN, deadline)) return false;
    }
    return true;
  }

  Answer give_up(const RenderingLimits& limits) { return {.outcome = Outcome::failed, .text = end(limits)}; }

  // Ends the process, which is late or has given up its channel, and tells why that was.
  std::string end(const RenderingLimits& limits) {
    if (is_late_) kill(pid_, SIGKILL);
    int status = 0;
    while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = -1;
    if (is_late_) return fmt::format("it is not done after {} s", kPatience.count());
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGPROF)
      return fmt::format("it takes more than {:g} s of a processor's time",
                         std::chrono::duration<double>(limits.processor_time).count());
    return fmt::format("it needs more than {} MiB of memory, or nests its values too deeply",
                       limits.memory >> 20);
  }

  // Errors other than of a channel that is full or empty end the waiting.
  bool wait_for(short what, Clock::time_point deadline) {
    if (errno == EINTR) return true;
    if (errno != EAGAIN && errno != EWOULDBLOCK) return false;
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    pollfd channel = {.fd = channel_, .events = what, .revents = 0};
    is_late_ = left <= 0 || poll(&channel, 1, static_cast<int>(left)) == 0;
    return !is_late_;
  }

  pid_t pid_ = -1;
  int channel_ = -1;
  bool is_late_ = false;
};

TemplateProcesses::TemplateProcesses(const TemplateSources& sources)
    : limits_(sources.limits), sources_(packed(sources)) {}
TemplateProcesses::~TemplateProcesses() = default;

std::unique_ptr<TemplateProcesses> TemplateProcesses::load(const TemplateSources& sources,
                                                           std::string& error) {
  std::unique_ptr<TemplateProcesses> processes(new TemplateProcesses(sources));
  Answer answer;
  std::unique_ptr<Process> first = processes->start(answer);
  error = answer.outcome == Outcome::failed ? std::move(answer.text) : "";
  if (first == nullptr) return nullptr;
  processes->give_back(std::move(first));
  return processes;
}

std::unique_ptr<TemplateProcesses::Process> TemplateProcesses::start(Answer& answer) const {
  try {
    auto process = std::make_unique<Process>();
    answer = process->ask({sources_}, limits_);
    if (answer.outcome == Outcome::done) return process;
  } catch (const Error& error) {
    answer = {.outcome = Outcome::failed, .text = error.what()};
  }
  return nullptr;
}

std::unique_ptr<TemplateProcesses::Process> TemplateProcesses::take(Answer& answer) {
  {
    const std::lock_guard lock(mutex_);
    while (!idle_.empty()) {
      std::unique_ptr<Process> process = std::move(idle_.back());
      idle_.pop_back();
      if (process->is_alive()) return process;  // the system may have ended it meanwhile, for its memory
    }
  }
  return start(answer);
}

void TemplateProcesses::give_back(std::unique_ptr<Process> process) {
  const std::lock_guard lock(mutex_);
  if (idle_.size() < kMostIdle) idle_.push_back(std::move(process));
}

Rendering TemplateProcesses::render(std::string_view variables_json) {
  Answer answer;
  std::unique_ptr<Process> process = take(answer);
  if (process == nullptr) return {.done = false, .text = std::move(answer.text)};
  const uint64_t size = variables_json.size();
  answer = process->ask({bytes_of(size), variables_json}, limits_);
  if (process->is_alive()) give_back(std::move(process));
  return {.done = answer.outcome == Outcome::done, .text = std::move(answer.text)};
}

}  // namespace chorale::text
