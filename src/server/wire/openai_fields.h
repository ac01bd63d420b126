// Fields that requests to OpenAI's two generating endpoints share, beside those that sampling reads.
#pragma once

#include "server/wire/fields.h"

namespace chorale::server {

struct StreamRequest {
  bool stream = false;
  bool include_usage = false;
  bool continuous_usage = false;  // with each message, not only at the end; needs include_usage
};

// "stream" and "stream_options"; the latter without the former is a BadRequest.
StreamRequest read_stream(Fields& fields);

// Accepts the fields that change nothing here (user, metadata, store, ...) and refuses those of OpenAI, vLLM
// and SGLang that are not supported and would.
void accept_harmless_fields(Fields& fields);
void refuse_unsupported_fields(Fields& fields);

// Fields of sampling that other servers know and this one does not: refused where they would change the
// answer, accepted where their value is the one that does not.
void refuse_foreign_sampling(Fields& fields);

}  // namespace chorale::server
