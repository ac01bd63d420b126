#include "text/chat_template.h"

#include <memory>
#include <utility>

#include <fmt/format.h>

#include "text/crate.h"
#include "text/template_process.h"

namespace chorale::text {
namespace {

// As errors call them, too.
constexpr std::string_view kJinja = "chat_template.jinja";
constexpr std::string_view kConfig = "tokenizer_config.json";
constexpr size_t kMaxTemplateBytes = size_t{4} << 20;

TemplateSources read_sources(const std::filesystem::path& directory) {
  TemplateSources sources{.kind = TemplateSources::Kind::files, .texts = {}, .limits = {}};
  sources.texts[0] = read_file_if_present(directory / kJinja, kMaxTemplateBytes);
  sources.texts[1] =
      read_file_if_present(directory / "additional_chat_templates" / "tool_use.jinja", kMaxTemplateBytes);
  sources.texts[2] = read_file_if_present(directory / kConfig, kMaxConfigBytes);
  return sources;
}

}  // namespace

struct ChatTemplate::Impl {
  std::unique_ptr<TemplateProcesses> processes;  // null when the template cannot be used
  std::string error;                             // why not
  std::string given_text;
};

ChatTemplate::ChatTemplate(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

std::optional<ChatTemplate> ChatTemplate::load(const std::filesystem::path& directory) {
  auto impl = std::make_unique<Impl>();
  try {
    const TemplateSources sources = read_sources(directory);
    std::string error;
    impl->processes = TemplateProcesses::load(sources, error);
    if (!impl->processes && error.empty()) return std::nullopt;
    if (!impl->processes) impl->error = (directory / error).string();
  } catch (const Error& error) {
    impl->error = error.what();
  }
  return ChatTemplate(std::move(impl));
}

ChatTemplate ChatTemplate::load(const std::filesystem::path& directory, const std::filesystem::path& file) {
  auto impl = std::make_unique<Impl>();
  try {
    TemplateSources sources{.kind = TemplateSources::Kind::files, .texts = {}, .limits = {}};
    sources.texts[0] = read_file_if_present(file, kMaxTemplateBytes);
    if (!sources.texts[0]) throw_error("{}: there is no such file", file.string());
    impl->given_text = *sources.texts[0];
    sources.texts[2] = read_file_if_present(directory / kConfig, kMaxConfigBytes);
    std::string error;
    impl->processes = TemplateProcesses::load(sources, error);
    const bool is_of_template = error.starts_with(kJinja);
    if (!impl->processes)
      impl->error =
          is_of_template ? file.string() + error.substr(kJinja.size()) : (directory / error).string();
  } catch (const Error& error) {
    impl->error = error.what();
  }
  return ChatTemplate(std::move(impl));
}

ChatTemplate ChatTemplate::from_source(std::string_view source, std::string_view bos_token,
                                       std::string_view eos_token) {
  auto impl = std::make_unique<Impl>();
  const TemplateSources sources{
      .kind = TemplateSources::Kind::source,
      .texts = {std::string(source), std::string(bos_token), std::string(eos_token)},
      .limits = {}};
  impl->processes = TemplateProcesses::load(sources, impl->error);
  return ChatTemplate(std::move(impl));
}

const std::string& ChatTemplate::given_text() const {
  return impl_->given_text;
}

std::optional<std::string> ChatTemplate::error() const {
  if (impl_->processes) return std::nullopt;
  return impl_->error;
}

std::variant<std::string, RequestError> ChatTemplate::render(std::string_view variables_json) const {
  // Why not is for the server's owner alone: it names files.
  if (!impl_->processes)
    return RequestError{.kind = RequestError::Kind::invalid,
                        .message = "The model's chat template cannot be used.",
                        .param = "messages"};
  Rendering rendering = impl_->processes->render(variables_json);
  if (!rendering.done) {
    return RequestError{.kind = RequestError::Kind::invalid,
                        .message = fmt::format("The model's chat template failed: {}", rendering.text),
                        .param = "messages"};
  }
  return std::move(rendering.text);
}

}  // namespace chorale::text
