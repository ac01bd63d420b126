#include "server/chat/tool_call_format.h"

#include <algorithm>
#include <array>

namespace chorale::server {

std::span<const ToolCallFormat* const> tool_call_formats() {
  // The JSON form comes last: without any other sign a model is taken to write it.
  static constexpr std::array<const ToolCallFormat*, 2> kFormats = {&kXmlToolCalls, &kJsonToolCalls};
  return kFormats;
}

const ToolCallFormat& find_tool_call_format(std::string_view text) {
  const std::span<const ToolCallFormat* const> formats = tool_call_formats();
  const auto found =
      std::ranges::find_if(formats, [&](const ToolCallFormat* format) { return format->is_asked_for(text); });
  return found == formats.end() ? kJsonToolCalls : **found;
}

}  // namespace chorale::server
