#include "server/endpoints/server_state.h"

#include <ctime>
#include <utility>

#include "server/endpoints/info.h"

namespace chorale::server {
ServerState::ServerState(RequestContext request_context, MetricsOptions metrics_options,
                         uint64_t max_answer_bytes)
    : context(std::move(request_context)),
      created(std::time(nullptr)),
      metrics(std::move(metrics_options)),
      answer_budget(max_answer_bytes),
      expert_load(std::make_shared<ExpertLoad>(context.model.placement)),
      tokenizer_info(read_tokenizer_info(context.model)) {}

}  // namespace chorale::server
