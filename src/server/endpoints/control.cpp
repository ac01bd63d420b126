#include "server/endpoints/control.h"

#include <optional>
#include <string>
#include <vector>

#include "server/wire/bad_request.h"
#include "server/wire/fields.h"
#include "server/wire/json_body.h"

namespace chorale::server {

// The id must be exactly the one that the client gave or was told. One that is not known is no error: the
// request may have just ended.
HttpResponse abort_request(ServerState& state, const HttpRequest& request) {
  const Json body = parse_json_body(request);
  Fields fields(body, "");
  const std::optional<std::string> rid = fields.string("rid");
  const bool all = fields.boolean("abort_all").value_or(false);
  fields.accept({"abort_message"});
  fields.finish();
  if (!rid && !all) bad_request("rid", "'rid' is missing");
  const std::vector<std::string> ids = state.live.cancel(all ? std::nullopt : rid, state.holder_of(request));
  for (const std::string& id : ids) state.context.model.engine.abort(id);
  return {.body = to_text({{"status", "ok"}, {"aborted", ids.size()}})};
}

HttpResponse flush_cache(ServerState& state, const HttpRequest& /*request*/) {
  state.context.model.engine.flush_prefix_cache();
  return {.body =
              to_text({{"status", "ok"}, {"message", "the prefix cache is emptied before the next step"}})};
}

}  // namespace chorale::server
