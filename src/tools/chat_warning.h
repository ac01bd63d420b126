// Whether a checkpoint's chat template can be used, told in the same words wherever that matters.
#pragma once

#include <optional>
#include <string>

#include "text/chat_template.h"

namespace chorale::tools {

// What to warn of before chats are served: that there is no template, that it does not parse, or that it
// fails on a conversation of one user's message. nullopt: it works. Completions work in any case. Takes as
// long as the template is given for a chat.
std::optional<std::string> chat_warning(const std::optional<text::ChatTemplate>& chat);

}  // namespace chorale::tools
