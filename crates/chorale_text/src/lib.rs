//! The text layer's foreign half: Hugging Face tokenizers and Jinja chat templates behind a C interface.
//! `include/chorale_text.h` is the interface's description.

mod added_tokens;
mod chat_template;
mod ffi;
mod json_file;
mod python_json;
mod tokenizer;
