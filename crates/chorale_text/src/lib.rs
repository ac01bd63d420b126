//! The text layer's foreign half: Hugging Face tokenizers, Jinja chat templates and grammars behind a C interface.
//! `include/chorale_text.h` is the interface's description.

mod added_tokens;
mod chat_template;
mod concatenation;
mod ffi;
mod gbnf;
mod grammar;
mod json_file;
mod pieces;
mod python_json;
mod tokenizer;
