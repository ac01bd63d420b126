// What a server tells of itself.
#pragma once

#include <cstdint>
#include <string>

#include "tools/bench_serve/http_client.h"

namespace chorale::bench_serve {

// The first of /v1/models. Throws Error when the server cannot be reached, refuses, or names none.
std::string first_model(HttpClient& client);

// vocab_size of /get_model_info, which SGLang and this project's server have. Throws Error that names
// --vocab-size and --tokenizer when the server does not tell it.
int64_t vocabulary_size(HttpClient& client);

// Empties the prefix cache, by POST /flush_cache. Throws Error when the server does not do so.
void flush_cache(HttpClient& client);

}  // namespace chorale::bench_serve
