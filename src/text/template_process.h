// Chat templates are rendered in processes of their own, because a template is a program from a file that
// nobody here has written. The crate counts its steps, but not all of its work: lists that share their parts
// look small and take ages to walk, and values nested deeply enough end the process that drops them. The
// system bounds a process whatever it does, and ends it without harm to anybody else.
//
// The process is this program again, under another name: it has none of this one's memory, sockets and
// threads, and ends when this one does. It is started when it is first needed, is kept for the next
// rendering, and takes its orders through a socket.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace chorale::text {

// What one rendering may take.
struct RenderingLimits {
  std::chrono::milliseconds processor_time{3000};
  uint64_t memory = uint64_t{512} << 20;  // beyond what its variables take themselves
};

// What a template is made from; an absent text is told from an empty one.
struct TemplateSources {
  enum class Kind : uint64_t { files, source } kind = Kind::files;
  // files: chat_template.jinja, tool_use.jinja, tokenizer_config.json. source: the template, bos_token,
  // eos_token.
  std::optional<std::string> texts[3];
  RenderingLimits limits;
};

// What came of it: a text, or for people what is wrong.
struct Rendering {
  bool done = false;
  std::string text;
};

// Thread-safe: as many renderings at a time as there are callers, each in a process.
class TemplateProcesses {
 public:
  // Starts the first process, which reads the template within the same limits. Null when there is none, or
  // when it cannot be used: `error` then says why, and begins with a file's name where it is about that.
  static std::unique_ptr<TemplateProcesses> load(const TemplateSources& sources, std::string& error);

  ~TemplateProcesses();
  TemplateProcesses(const TemplateProcesses&) = delete;
  TemplateProcesses& operator=(const TemplateProcesses&) = delete;

  Rendering render(std::string_view variables_json);

 private:
  class Process;
  struct Answer;

  explicit TemplateProcesses(const TemplateSources& sources);
  // One that has read the template, or what went wrong.
  std::unique_ptr<Process> start(Answer& answer) const;
  std::unique_ptr<Process> take(Answer& answer);
  void give_back(std::unique_ptr<Process> process);

  const RenderingLimits limits_;
  const std::string sources_;  // as they are sent
  std::mutex mutex_;
  std::vector<std::unique_ptr<Process>> idle_;
};

}  // namespace chorale::text
