#include "text/chat_template.h"

#include <memory>
#include <utility>

#include "text/crate.h"

namespace chorale::text {
namespace {

constexpr size_t kMaxTemplateBytes = size_t{4} << 20;

struct Destroy {
  void operator()(chorale_chat_template* chat_template) const {
    chorale_chat_template_destroy(chat_template);
  }
};
using Handle = std::unique_ptr<chorale_chat_template, Destroy>;

}  // namespace

struct ChatTemplate::Impl {
  Handle handle;      // null when the template cannot be used
  std::string error;  // why not
};

ChatTemplate::ChatTemplate(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

std::optional<ChatTemplate> ChatTemplate::load(const std::filesystem::path& directory) {
  auto impl = std::make_unique<Impl>();
  try {
    const auto jinja = read_file_if_present(directory / "chat_template.jinja", kMaxTemplateBytes);
    const auto tools_jinja =
        read_file_if_present(directory / "additional_chat_templates" / "tool_use.jinja", kMaxTemplateBytes);
    const auto config = read_file_if_present(directory / "tokenizer_config.json", kMaxConfigBytes);
    const chorale_text_view jinja_view = view_of(jinja ? std::string_view(*jinja) : std::string_view());
    const chorale_text_view tools_view =
        view_of(tools_jinja ? std::string_view(*tools_jinja) : std::string_view());
    const chorale_text_view config_view = view_of(config ? std::string_view(*config) : std::string_view());

    chorale_chat_template* chat_template = nullptr;
    chorale_text_bytes error{};
    const int32_t status =
        chorale_chat_template_load(jinja ? &jinja_view : nullptr, tools_jinja ? &tools_view : nullptr,
                                   config ? &config_view : nullptr, &chat_template, &error);
    if (status == CHORALE_TEXT_ABSENT) return std::nullopt;
    impl->handle.reset(chat_template);
    if (status != CHORALE_TEXT_OK) impl->error = (directory / take(error)).string();
  } catch (const Error& error) {
    impl->error = error.what();
  }
  return ChatTemplate(std::move(impl));
}

ChatTemplate ChatTemplate::from_source(std::string_view source, std::string_view bos_token,
                                       std::string_view eos_token) {
  auto impl = std::make_unique<Impl>();
  chorale_chat_template* chat_template = nullptr;
  chorale_text_bytes error{};
  const int32_t status = chorale_chat_template_create(view_of(source), view_of(bos_token), view_of(eos_token),
                                                      &chat_template, &error);
  impl->handle.reset(chat_template);
  if (status != CHORALE_TEXT_OK) impl->error = take(error);
  return ChatTemplate(std::move(impl));
}

std::optional<std::string> ChatTemplate::error() const {
  if (impl_->handle) return std::nullopt;
  return impl_->error;
}

std::variant<std::string, RequestError> ChatTemplate::render(std::string_view variables_json) const {
  // Why not is for the server's owner alone: it names files.
  if (!impl_->handle)
    return RequestError{.kind = RequestError::Kind::invalid,
                        .message = "The model's chat template cannot be used.",
                        .param = "messages"};
  chorale_text_bytes text{};
  chorale_text_bytes error{};
  if (chorale_chat_template_render(impl_->handle.get(), view_of(variables_json), &text, &error) !=
      CHORALE_TEXT_OK) {
    return RequestError{.kind = RequestError::Kind::invalid,
                        .message = fmt::format("The model's chat template failed: {}", take(error)),
                        .param = "messages"};
  }
  return take(text);
}

}  // namespace chorale::text
