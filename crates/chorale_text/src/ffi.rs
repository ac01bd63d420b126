//! The C interface. Every function that can fail returns a status and catches panics; `include/chorale_text.h` says
//! who owns what.

use std::any::Any;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr;
use std::slice;

use minijinja::Value;

use crate::chat_template::ChatTemplate;
use crate::grammar::{unsupported_pattern, Environment, Grammar, Kind, Matcher};
use crate::tokenizer::Tokenizer;

const OK: i32 = 0;
const FAILED: i32 = 1;
const ABSENT: i32 = 2;

/// Bytes that the caller keeps.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct View {
    data: *const u8,
    size: usize,
}

impl View {
    fn of(bytes: &[u8]) -> Self {
        Self { data: bytes.as_ptr(), size: bytes.len() }
    }

    /// # Safety
    /// `data` points to `size` bytes that outlive 'a, or `size` is 0.
    unsafe fn bytes<'a>(self) -> &'a [u8] {
        if self.size == 0 {
            return &[];
        }
        slice::from_raw_parts(self.data, self.size)
    }

    /// # Safety
    /// As for `bytes`.
    unsafe fn text<'a>(self) -> Result<&'a str, String> {
        std::str::from_utf8(self.bytes()).map_err(|error| format!("the text is not UTF-8: {error}"))
    }
}

/// An array that was allocated here and goes back by its free function.
#[repr(C)]
pub struct Array<T> {
    data: *mut T,
    size: usize,
}

impl<T> From<Vec<T>> for Array<T> {
    fn from(items: Vec<T>) -> Self {
        let items = items.into_boxed_slice();
        let size = items.len();
        Self { data: Box::into_raw(items).cast(), size }
    }
}

impl<T> Array<T> {
    /// # Safety
    /// The array came from `from` and was not freed before.
    unsafe fn free(self) {
        drop(Box::from_raw(ptr::slice_from_raw_parts_mut(self.data, self.size)));
    }
}

/// Runs the call; its error, or what it panicked with, goes to `error`.
///
/// # Safety
/// `error` can be written to.
unsafe fn guard(error: *mut Array<u8>, call: impl FnOnce() -> Result<i32, String>) -> i32 {
    let message = match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(status)) => return status,
        Ok(Err(message)) => message,
        Err(panic) => format!("an error inside a library: {}", panic_message(panic.as_ref())),
    };
    error.write(message.into_bytes().into());
    FAILED
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no details")
}

/// # Safety
/// `bytes` came from this library and was not freed before.
#[no_mangle]
pub unsafe extern "C" fn chorale_text_bytes_free(bytes: Array<u8>) {
    bytes.free();
}

/// # Safety
/// `ids` came from this library and was not freed before.
#[no_mangle]
pub unsafe extern "C" fn chorale_text_ids_free(ids: Array<u32>) {
    ids.free();
}

/// # Safety
/// The views hold; `config_json` may be null; `tokenizer` and `error` can be written to.
#[no_mangle]
pub unsafe extern "C" fn chorale_tokenizer_create(
    tokenizer_json: View,
    config_json: *const View,
    tokenizer: *mut *mut Tokenizer,
    error: *mut Array<u8>,
) -> i32 {
    guard(error, || {
        let config = config_json.as_ref().map(|view| view.bytes());
        let created = Tokenizer::new(tokenizer_json.bytes(), config)?;
        tokenizer.write(Box::into_raw(Box::new(created)));
        Ok(OK)
    })
}

/// # Safety
/// `tokenizer` came from `chorale_tokenizer_create` and is in no other use.
#[no_mangle]
pub unsafe extern "C" fn chorale_tokenizer_destroy(tokenizer: *mut Tokenizer) {
    drop(Box::from_raw(tokenizer));
}

/// # Safety
/// `tokenizer` lives; the view holds; `ids` and `error` can be written to.
#[no_mangle]
pub unsafe extern "C" fn chorale_tokenizer_encode(
    tokenizer: *const Tokenizer,
    text: View,
    add_special_tokens: bool,
    ids: *mut Array<u32>,
    error: *mut Array<u8>,
) -> i32 {
    guard(error, || {
        let encoded = (*tokenizer).encode(text.text()?, add_special_tokens)?;
        ids.write(encoded.into());
        Ok(OK)
    })
}

/// # Safety
/// `tokenizer` lives; the view holds; `ids`, `size` and `error` can be written to.
#[no_mangle]
pub unsafe extern "C" fn chorale_tokenizer_encode_piece(
    tokenizer: *const Tokenizer,
    text: View,
    control_tokens: bool,
    ids: *mut Array<u32>,
    size: *mut usize,
    error: *mut Array<u8>,
) -> i32 {
    guard(error, || {
        let piece = (*tokenizer).encode_piece(text.text()?, control_tokens)?;
        ids.write(piece.ids.into());
        size.write(piece.bytes);
        Ok(OK)
    })
}

/// # Safety
/// `tokenizer` lives.
#[no_mangle]
pub unsafe extern "C" fn chorale_tokenizer_fewest_tokens(tokenizer: *const Tokenizer, bytes: usize) -> usize {
    (*tokenizer).fewest_tokens(bytes)
}

/// # Safety
/// `tokenizer` lives.
#[no_mangle]
pub unsafe extern "C" fn chorale_tokenizer_adds_special_tokens(tokenizer: *const Tokenizer) -> bool {
    (*tokenizer).adds_special_tokens()
}

/// # Safety
/// `tokenizer` lives; `ids` points to `count` ids or `count` is 0; `text` and `error` can be written to.
#[no_mangle]
pub unsafe extern "C" fn chorale_tokenizer_decode(
    tokenizer: *const Tokenizer,
    ids: *const u32,
    count: usize,
    skip_special_tokens: bool,
    text: *mut Array<u8>,
    error: *mut Array<u8>,
) -> i32 {
    guard(error, || {
        let ids = if count == 0 { &[] } else { slice::from_raw_parts(ids, count) };
        let decoded = (*tokenizer).decode(ids, skip_special_tokens)?;
        text.write(decoded.into_bytes().into());
        Ok(OK)
    })
}

/// # Safety
/// `tokenizer` lives.
#[no_mangle]
pub unsafe extern "C" fn chorale_tokenizer_vocab_size(tokenizer: *const Tokenizer) -> u32 {
    (*tokenizer).vocab_size()
}

/// # Safety
/// `tokenizer` lives, as long as the result is used.
#[no_mangle]
pub unsafe extern "C" fn chorale_tokenizer_token_bytes(tokenizer: *const Tokenizer, id: u32) -> View {
    View::of((*tokenizer).token_bytes(id))
}

/// # Safety
/// `tokenizer` lives.
#[no_mangle]
pub unsafe extern "C" fn chorale_tokenizer_is_special(tokenizer: *const Tokenizer, id: u32) -> bool {
    (*tokenizer).is_special(id)
}

/// # Safety
/// `tokenizer` lives; the view holds.
#[no_mangle]
pub unsafe extern "C" fn chorale_tokenizer_token_to_id(tokenizer: *const Tokenizer, token: View) -> i64 {
    let id = token.text().ok().and_then(|token| (*tokenizer).token_to_id(token));
    id.map_or(-1, i64::from)
}

/// # Safety
/// The views hold, each may be null; `chat_template` and `error` can be written to.
#[no_mangle]
pub unsafe extern "C" fn chorale_chat_template_load(
    jinja: *const View,
    tools_jinja: *const View,
    config_json: *const View,
    chat_template: *mut *mut ChatTemplate,
    error: *mut Array<u8>,
) -> i32 {
    guard(error, || {
        let jinja = jinja.as_ref().map(|view| view.bytes());
        let tools_jinja = tools_jinja.as_ref().map(|view| view.bytes());
        let config = config_json.as_ref().map(|view| view.bytes());
        match ChatTemplate::load(jinja, tools_jinja, config)? {
            None => Ok(ABSENT),
            Some(loaded) => {
                chat_template.write(Box::into_raw(Box::new(loaded)));
                Ok(OK)
            }
        }
    })
}

/// # Safety
/// The views hold; `chat_template` and `error` can be written to.
#[no_mangle]
pub unsafe extern "C" fn chorale_chat_template_create(
    source: View,
    bos_token: View,
    eos_token: View,
    chat_template: *mut *mut ChatTemplate,
    error: *mut Array<u8>,
) -> i32 {
    guard(error, || {
        let special_tokens = vec![
            ("bos_token", Value::from(bos_token.text()?)),
            ("eos_token", Value::from(eos_token.text()?)),
        ];
        let created = ChatTemplate::new(source.text()?.to_owned(), special_tokens)?;
        chat_template.write(Box::into_raw(Box::new(created)));
        Ok(OK)
    })
}

/// # Safety
/// `chat_template` came from this library and is in no other use.
#[no_mangle]
pub unsafe extern "C" fn chorale_chat_template_destroy(chat_template: *mut ChatTemplate) {
    drop(Box::from_raw(chat_template));
}

/// # Safety
/// `chat_template` lives; the view holds; `text` and `error` can be written to.
#[no_mangle]
pub unsafe extern "C" fn chorale_chat_template_render(
    chat_template: *const ChatTemplate,
    variables_json: View,
    text: *mut Array<u8>,
    error: *mut Array<u8>,
) -> i32 {
    guard(error, || {
        let rendered = (*chat_template).render(variables_json.bytes())?;
        text.write(rendered.into_bytes().into());
        Ok(OK)
    })
}

/// # Safety
/// `tokenizer` lives; `eos_ids` points to `count` ids or `count` is 0; `environment` and `error` can be written to.
#[no_mangle]
pub unsafe extern "C" fn chorale_grammar_environment_create(
    tokenizer: *const Tokenizer,
    vocab_size: usize,
    eos_ids: *const u32,
    count: usize,
    environment: *mut *mut Environment,
    error: *mut Array<u8>,
) -> i32 {
    guard(error, || {
        let eos_ids = if count == 0 { &[] } else { slice::from_raw_parts(eos_ids, count) };
        let created = Environment::new(&*tokenizer, vocab_size, eos_ids)?;
        environment.write(Box::into_raw(Box::new(created)));
        Ok(OK)
    })
}

/// # Safety
/// `environment` came from `chorale_grammar_environment_create` and is in no other use.
#[no_mangle]
pub unsafe extern "C" fn chorale_grammar_environment_destroy(environment: *mut Environment) {
    drop(Box::from_raw(environment));
}

/// # Safety
/// `environment` lives; the view holds; `grammar` and `error` can be written to.
#[no_mangle]
pub unsafe extern "C" fn chorale_grammar_compile(
    environment: *const Environment,
    kind: i32,
    source: View,
    grammar: *mut *mut Grammar,
    error: *mut Array<u8>,
) -> i32 {
    guard(error, || {
        let kind = Kind::from_number(kind).ok_or_else(|| format!("there is no kind {kind} of grammars"))?;
        let compiled = (*environment).compile(kind, source.text()?)?;
        grammar.write(Box::into_raw(Box::new(compiled)));
        Ok(OK)
    })
}

/// # Safety
/// The view holds; `error` can be written to.
#[no_mangle]
pub unsafe extern "C" fn chorale_grammar_check_pattern(pattern: View, error: *mut Array<u8>) -> i32 {
    guard(error, || match unsupported_pattern(pattern.text()?) {
        None => Ok(OK),
        Some(reason) => Err(reason),
    })
}

/// # Safety
/// `grammar` came from `chorale_grammar_compile` and is in no other use.
#[no_mangle]
pub unsafe extern "C" fn chorale_grammar_destroy(grammar: *mut Grammar) {
    drop(Box::from_raw(grammar));
}

/// # Safety
/// `grammar` lives; `matcher` and `error` can be written to.
#[no_mangle]
pub unsafe extern "C" fn chorale_grammar_matcher_create(
    grammar: *const Grammar,
    matcher: *mut *mut Matcher,
    error: *mut Array<u8>,
) -> i32 {
    guard(error, || {
        matcher.write(Box::into_raw(Box::new((*grammar).matcher())));
        Ok(OK)
    })
}

/// # Safety
/// `matcher` came from `chorale_grammar_matcher_create` and is in no other use.
#[no_mangle]
pub unsafe extern "C" fn chorale_grammar_matcher_destroy(matcher: *mut Matcher) {
    drop(Box::from_raw(matcher));
}

/// # Safety
/// `matcher` lives and is in no other use; `mask` points to `count` words; `error` can be written to.
#[no_mangle]
pub unsafe extern "C" fn chorale_grammar_matcher_mask(
    matcher: *mut Matcher,
    mask: *mut u32,
    count: usize,
    error: *mut Array<u8>,
) -> i32 {
    guard(error, || {
        (*matcher).compute_mask(slice::from_raw_parts_mut(mask, count))?;
        Ok(OK)
    })
}

/// # Safety
/// `matcher` lives and is in no other use; `accepted` and `error` can be written to.
#[no_mangle]
pub unsafe extern "C" fn chorale_grammar_matcher_accept(
    matcher: *mut Matcher,
    id: u32,
    accepted: *mut bool,
    error: *mut Array<u8>,
) -> i32 {
    guard(error, || {
        accepted.write((*matcher).accept(id)?);
        Ok(OK)
    })
}

/// # Safety
/// `matcher` lives and is in no other use; `accepting`, `finished` and `error` can be written to.
#[no_mangle]
pub unsafe extern "C" fn chorale_grammar_matcher_state(
    matcher: *mut Matcher,
    accepting: *mut bool,
    finished: *mut bool,
    error: *mut Array<u8>,
) -> i32 {
    guard(error, || {
        accepting.write((*matcher).is_accepting());
        finished.write((*matcher).is_finished());
        Ok(OK)
    })
}
