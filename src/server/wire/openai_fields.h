// Fields that requests to OpenAI's two generating endpoints share, beside those that sampling reads.
#pragma once

#include "server/wire/fields.h"

namespace chorale::server {

struct StreamRequest {
  bool stream = false;
  bool include_usage = false;
};

// "stream" and "stream_options"; the latter without the former is a BadRequest.
StreamRequest read_stream(Fields& fields);

// Accepts the fields that change nothing here (user, metadata, store, ...) and refuses those of OpenAI, vLLM
// and SGLang that are not supported and would.
void accept_harmless_fields(Fields& fields);
void refuse_unsupported_fields(Fields& fields);

}  // namespace chorale::server
