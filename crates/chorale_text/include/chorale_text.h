// The C interface of the crate chorale_text: tokenizers, chat templates and grammars. Layouts and names must
// agree with src/ffi.rs.
//
// Ownership: views are only read during the call. Arrays and objects that a function hands out belong to the
// caller and go back by the matching free or destroy function, once. Texts are UTF-8 with a length, not
// NUL-terminated. Errors: a function with a status fills `error` when it returns CHORALE_TEXT_FAILED, its
// result when it returns CHORALE_TEXT_OK, and neither otherwise. No panic leaves the library. Threads:
// objects other than matchers do not change after their creation; any number of threads may use one at a
// time. A matcher is used by one thread at a time.
#ifndef CHORALE_TEXT_H
#define CHORALE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { CHORALE_TEXT_OK = 0, CHORALE_TEXT_FAILED = 1, CHORALE_TEXT_ABSENT = 2 };

// Borrowed bytes; data may be null when size is 0.
typedef struct {
  const uint8_t* data;
  size_t size;
} chorale_text_view;

typedef struct {
  uint8_t* data;
  size_t size;
} chorale_text_bytes;

typedef struct {
  uint32_t* data;
  size_t size;
} chorale_text_ids;

void chorale_text_bytes_free(chorale_text_bytes bytes);
void chorale_text_ids_free(chorale_text_ids ids);

typedef struct chorale_tokenizer chorale_tokenizer;

// From the texts of tokenizer.json and of tokenizer_config.json, which may be null. Errors begin with the
// file's name.
int32_t chorale_tokenizer_create(chorale_text_view tokenizer_json, const chorale_text_view* config_json,
                                 chorale_tokenizer** tokenizer, chorale_text_bytes* error);
void chorale_tokenizer_destroy(chorale_tokenizer* tokenizer);

int32_t chorale_tokenizer_encode(const chorale_tokenizer* tokenizer, chorale_text_view text,
                                 bool add_special_tokens, chorale_text_ids* ids, chorale_text_bytes* error);
// The tokens of the first `size` bytes of the text, so that those of all pieces together are those of the
// text; what the post-processor would add is left out. Without control_tokens the text of an added token is
// text as any other. A size of 0: for more than a piece may have, the text has no place to cut at.
int32_t chorale_tokenizer_encode_piece(const chorale_tokenizer* tokenizer, chorale_text_view text,
                                       bool control_tokens, chorale_text_ids* ids, size_t* size,
                                       chorale_text_bytes* error);
// No text of so many bytes has fewer tokens.
size_t chorale_tokenizer_fewest_tokens(const chorale_tokenizer* tokenizer, size_t bytes);
// Whether chorale_tokenizer_encode with add_special_tokens adds any.
bool chorale_tokenizer_adds_special_tokens(const chorale_tokenizer* tokenizer);
// Ids outside the vocabulary decode to nothing.
int32_t chorale_tokenizer_decode(const chorale_tokenizer* tokenizer, const uint32_t* ids, size_t count,
                                 bool skip_special_tokens, chorale_text_bytes* text,
                                 chorale_text_bytes* error);
// One more than the highest id; ids are below 2^24.
uint32_t chorale_tokenizer_vocab_size(const chorale_tokenizer* tokenizer);
// The bytes that the token adds to a decoded text, valid as long as the tokenizer. Empty outside the
// vocabulary.
chorale_text_view chorale_tokenizer_token_bytes(const chorale_tokenizer* tokenizer, uint32_t id);
bool chorale_tokenizer_is_special(const chorale_tokenizer* tokenizer, uint32_t id);
// -1 for a text that is no token.
int64_t chorale_tokenizer_token_to_id(const chorale_tokenizer* tokenizer, chorale_text_view token);

typedef struct chorale_chat_template chorale_chat_template;

// From the texts of chat_template.jinja, of additional_chat_templates/tool_use.jinja and of
// tokenizer_config.json, each of which may be null.
// CHORALE_TEXT_ABSENT when neither holds a template.
int32_t chorale_chat_template_load(const chorale_text_view* jinja, const chorale_text_view* tools_jinja,
                                   const chorale_text_view* config_json,
                                   chorale_chat_template** chat_template, chorale_text_bytes* error);
int32_t chorale_chat_template_create(chorale_text_view source, chorale_text_view bos_token,
                                     chorale_text_view eos_token, chorale_chat_template** chat_template,
                                     chorale_text_bytes* error);
void chorale_chat_template_destroy(chorale_chat_template* chat_template);

// variables_json is an object. Steps, memory and output are bounded.
int32_t chorale_chat_template_render(const chorale_chat_template* chat_template,
                                     chorale_text_view variables_json, chorale_text_bytes* text,
                                     chorale_text_bytes* error);

typedef struct chorale_grammar_environment chorale_grammar_environment;
typedef struct chorale_grammar chorale_grammar;
typedef struct chorale_grammar_matcher chorale_grammar_matcher;

// What a grammar is written in. A choice is a JSON array of strings; the source of a JSON object is not read.
enum {
  CHORALE_GRAMMAR_JSON_SCHEMA = 0,
  CHORALE_GRAMMAR_JSON_OBJECT = 1,
  CHORALE_GRAMMAR_REGEX = 2,
  CHORALE_GRAMMAR_EBNF = 3,
  CHORALE_GRAMMAR_CHOICE = 4,
  CHORALE_GRAMMAR_LARK = 5,
  CHORALE_GRAMMAR_LENIENT_JSON_SCHEMA = 6,  // parts that cannot be enforced say nothing
  CHORALE_GRAMMAR_WRITTEN = 7               // Lark that the caller wrote around schemas of others
};

// Masks have vocab_size bits, padded to whole words of 32. The environment keeps what it needs of the
// tokenizer, a grammar what it needs of the environment, and a matcher what it needs of the grammar.
int32_t chorale_grammar_environment_create(const chorale_tokenizer* tokenizer, size_t vocab_size,
                                           const uint32_t* eos_ids, size_t count,
                                           chorale_grammar_environment** environment,
                                           chorale_text_bytes* error);
void chorale_grammar_environment_destroy(chorale_grammar_environment* environment);

// Time, memory and the error's length are bounded.
int32_t chorale_grammar_compile(const chorale_grammar_environment* environment, int32_t kind,
                                chorale_text_view source, chorale_grammar** grammar,
                                chorale_text_bytes* error);
void chorale_grammar_destroy(chorale_grammar* grammar);
// Fails for a "pattern" of a JSON schema that cannot be enforced, and says why.
int32_t chorale_grammar_check_pattern(chorale_text_view pattern, chorale_text_bytes* error);

// At the beginning of a text.
int32_t chorale_grammar_matcher_create(const chorale_grammar* grammar, chorale_grammar_matcher** matcher,
                                       chorale_text_bytes* error);
void chorale_grammar_matcher_destroy(chorale_grammar_matcher* matcher);
// Which tokens can come next: bit id % 32 of word id / 32. After an error every call fails with it.
int32_t chorale_grammar_matcher_mask(chorale_grammar_matcher* matcher, uint32_t* mask, size_t count,
                                     chorale_text_bytes* error);
// A token that cannot come next is not accepted, and changes nothing.
int32_t chorale_grammar_matcher_accept(chorale_grammar_matcher* matcher, uint32_t id, bool* accepted,
                                       chorale_text_bytes* error);
// Whether the text may end here, and whether it must.
int32_t chorale_grammar_matcher_state(chorale_grammar_matcher* matcher, bool* accepting, bool* finished,
                                      chorale_text_bytes* error);

#ifdef __cplusplus
}
#endif

#endif
