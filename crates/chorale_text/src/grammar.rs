//! Grammars that constrain what a model may say: which tokens can follow, by the crate `llguidance`.
//!
//! Sources come from requests, so whatever is done with them has bounds: their size, the nesting and the size of the
//! compiled grammar, and the work of every step.

use std::sync::Arc;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie, TokenizerEnv};
use llguidance::ParserFactory;
use serde_json::{json, Value};
use tokenizers::Tokenizer as HfTokenizer;

use crate::gbnf;
use crate::tokenizer::Tokenizer;

const MAX_SCHEMA_BYTES: usize = 256 << 10;
const MAX_GRAMMAR_BYTES: usize = 64 << 10;
const MAX_REGEX_BYTES: usize = 16 << 10;
const MAX_CHOICES: usize = 4096;
const MAX_ERROR_BYTES: usize = 600;

/// Compiling descends into nested parts. With this much stack, sources of the sizes above cannot exhaust it; memory is
/// only taken for what is used.
const COMPILE_STACK_BYTES: usize = 256 << 20;

/// Between two parts of a JSON text: nothing, blanks, or line ends with an indentation. Bounded, because a model that
/// may write blanks for ever sometimes does.
const JSON_WHITESPACE: &str = r"[ \t]{1,2}|(\r?\n){1,2}[ \t]{0,40}";

/// Forced texts are tokenized as the tokenizer would up to here; what lies beyond is looked at when it comes near.
const MAX_CANONICAL_BYTES: usize = 1024;

fn limits() -> ParserLimits {
    ParserLimits {
        max_lexer_states: 50_000, // a state takes 1 to 2 kB, and every matcher has its own
        max_grammar_size: 200_000,
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

/// What a grammar is written in; the numbers are those of the C interface.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    JsonSchema,
    JsonObject,
    Regex,
    Ebnf,
    Choice,
    Lark,
}

impl Kind {
    pub fn from_number(number: i32) -> Option<Self> {
        [Self::JsonSchema, Self::JsonObject, Self::Regex, Self::Ebnf, Self::Choice, Self::Lark]
            .get(usize::try_from(number).ok()?)
            .copied()
    }
}

/// A vocabulary made ready for grammars. Does not change; costs much time and memory, so there is one per server.
pub struct Environment {
    factory: ParserFactory,
    shared: Arc<Shared>,
}

/// What matchers need of their environment.
struct Shared {
    eos_ids: Vec<u32>,
    /// The tokens that exist: what a grammar may allow.
    tokens: SimpleVob,
    mask_words: usize,
}

impl Environment {
    /// For a model of `vocab_size` rows, more or fewer than the tokenizer has tokens. `eos_ids` end a generation.
    pub fn new(tokenizer: &Tokenizer, vocab_size: usize, eos_ids: &[u32]) -> Result<Self, String> {
        let words = trie_words(tokenizer, vocab_size);
        let Some(&eos) = eos_ids.first() else {
            return Err("grammars need a token that ends the generation, found none".to_owned());
        };
        for &id in eos_ids {
            if words.get(id as usize).is_none_or(Vec::is_empty) {
                return Err(format!("the token id {id}, which ends a generation, is not in the vocabulary"));
            }
        }
        let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, eos), &words).with_eos_tokens(eos_ids);
        let mut tokens = trie.alloc_token_set();
        for (id, word) in words.iter().enumerate() {
            if !word.is_empty() {
                tokens.allow_token(id as u32);
            }
        }
        let env: TokEnv = Arc::new(TrieEnv { trie, tokenizer: tokenizer.shared() });
        let slices = SlicedBiasComputer::json_slices();
        let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices)
            .map_err(|error| brief(&error.to_string()))?;
        factory.quiet();
        *factory.limits_mut() = limits();
        let shared = Shared { eos_ids: eos_ids.to_vec(), tokens, mask_words: vocab_size.div_ceil(32) };
        Ok(Self { factory, shared: Arc::new(shared) })
    }

    /// An unusable source is an error that says why, in a bounded text, time and memory.
    pub fn compile(&self, kind: Kind, source: &str) -> Result<Grammar, String> {
        let compile = || {
            let grammar = to_top_level(kind, source)?;
            let matcher = llguidance::Matcher::new(self.factory.create_parser(grammar));
            match matcher.get_error() {
                Some(error) => Err(error),
                None => Ok(Grammar { fresh: matcher, shared: self.shared.clone() }),
            }
        };
        let result = std::thread::scope(|scope| {
            let worker = std::thread::Builder::new().stack_size(COMPILE_STACK_BYTES);
            let worker = worker.spawn_scoped(scope, compile).map_err(|error| error.to_string())?;
            worker.join().unwrap_or_else(|_| Err("an error inside a library".to_owned()))
        });
        result.map_err(|error| brief(&error))
    }
}

/// The bytes of every token, as the trie wants them: control tokens, which no text may spell, begin with a byte that
/// UTF-8 never has, and what is no token is empty.
fn trie_words(tokenizer: &Tokenizer, vocab_size: usize) -> Vec<Vec<u8>> {
    let size = vocab_size.min(tokenizer.vocab_size() as usize);
    let mut words = Vec::with_capacity(size);
    for id in 0..size as u32 {
        let bytes = tokenizer.token_bytes(id);
        let begins_as_control = bytes.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER);
        words.push(if tokenizer.is_control(id) {
            [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat()
        } else if begins_as_control {
            Vec::new() // cannot be part of a text
        } else {
            bytes.to_vec()
        });
    }
    words
}

struct TrieEnv {
    trie: TokTrie,
    tokenizer: Arc<HfTokenizer>,
}

impl TrieEnv {
    /// The tokenizer's own division of the text, if that is exactly the text: a normalizer may change it, and what
    /// spells a control token becomes one.
    fn canonical(&self, text: &str) -> Option<Vec<u32>> {
        let ids = self.tokenizer.encode_fast(text, false).ok()?.get_ids().to_vec();
        let mut rest = text.as_bytes();
        for &id in &ids {
            let word = self.trie.token(id);
            if word.is_empty() {
                return None;
            }
            rest = rest.strip_prefix(word)?;
        }
        rest.is_empty().then_some(ids)
    }
}

impl TokenizerEnv for TrieEnv {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        let near = &bytes[..bytes.len().min(MAX_CANONICAL_BYTES)];
        let near = match std::str::from_utf8(near) {
            Ok(text) => text,
            Err(error) => std::str::from_utf8(&near[..error.valid_up_to()]).unwrap_or_default(),
        };
        let Some(mut ids) = self.canonical(near) else {
            return self.trie.greedy_tokenize(bytes);
        };
        ids.extend(self.trie.greedy_tokenize(&bytes[near.len()..]));
        ids
    }
}

fn to_top_level(kind: Kind, source: &str) -> Result<TopLevelGrammar, String> {
    let (name, max_bytes) = match kind {
        Kind::JsonSchema | Kind::JsonObject => ("JSON schema", MAX_SCHEMA_BYTES),
        Kind::Regex => ("regular expression", MAX_REGEX_BYTES),
        Kind::Ebnf | Kind::Lark => ("grammar", MAX_GRAMMAR_BYTES),
        Kind::Choice => ("list of choices", MAX_SCHEMA_BYTES),
    };
    if source.len() > max_bytes {
        return Err(format!("the {name} has {} bytes; at most {max_bytes} are allowed", source.len()));
    }
    match kind {
        Kind::JsonSchema => json_schema(source),
        Kind::JsonObject => with_options(json!({"type": "object"})),
        Kind::Regex => regex(source),
        Kind::Ebnf if gbnf::is_gbnf(source) => Ok(TopLevelGrammar::from_lark(gbnf::to_lark(source)?)),
        Kind::Ebnf | Kind::Lark => lark(source),
        Kind::Choice => choice(source),
    }
}

fn json_schema(source: &str) -> Result<TopLevelGrammar, String> {
    // The parser of JSON bounds the nesting.
    let schema: Value =
        serde_json::from_str(source).map_err(|error| format!("the JSON schema is not valid JSON: {error}"))?;
    match schema {
        Value::Bool(true) => with_options(json!({})),
        Value::Object(ref keys) if keys.contains_key("x-guidance") => {
            Err("the JSON schema's key \"x-guidance\" is not supported".to_owned())
        }
        Value::Object(_) => with_options(schema),
        _ => Err("the JSON schema is neither an object nor true".to_owned()),
    }
}

fn with_options(mut schema: Value) -> Result<TopLevelGrammar, String> {
    schema["x-guidance"] = json!({"whitespace_flexible": true, "whitespace_pattern": JSON_WHITESPACE});
    Ok(TopLevelGrammar::from_json_schema(schema))
}

/// The whole text matches, so anchors at the ends say nothing; the library has none.
fn regex(source: &str) -> Result<TopLevelGrammar, String> {
    let mut body = source.strip_prefix('^').unwrap_or(source);
    if let Some(rest) = body.strip_suffix('$') {
        let backslashes = rest.len() - rest.trim_end_matches('\\').len();
        if backslashes % 2 == 0 {
            body = rest;
        }
    }
    if body.is_empty() {
        return Err("the regular expression is empty".to_owned());
    }
    Ok(TopLevelGrammar::from_regex(body))
}

fn lark(source: &str) -> Result<TopLevelGrammar, String> {
    if source.trim().is_empty() {
        return Err("the grammar is empty".to_owned());
    }
    Ok(TopLevelGrammar::from_lark(source.to_owned()))
}

fn choice(source: &str) -> Result<TopLevelGrammar, String> {
    let choices: Vec<String> =
        serde_json::from_str(source).map_err(|error| format!("the choices are not a list of texts: {error}"))?;
    if choices.is_empty() || choices.len() > MAX_CHOICES {
        return Err(format!("expected 1 to {MAX_CHOICES} choices, found {}", choices.len()));
    }
    let literals: Vec<String> = choices.iter().map(|choice| gbnf::lark_literal(choice)).collect();
    Ok(TopLevelGrammar::from_lark(format!("start: CHOICE\nCHOICE: {}\n", literals.join(" | "))))
}

/// The library's message without its dumps of state and back traces, at most MAX_ERROR_BYTES long.
fn brief(message: &str) -> String {
    let end = ["\n<state>", "\n<backtrace>", "\n<non-verbose/>"]
        .iter()
        .filter_map(|mark| message.find(mark))
        .min()
        .unwrap_or(message.len());
    let message = message[..end].trim_end();
    if message.len() <= MAX_ERROR_BYTES {
        return message.to_owned();
    }
    let end = (0..=MAX_ERROR_BYTES).rev().find(|&end| message.is_char_boundary(end)).unwrap_or(0);
    format!("{}...", &message[..end])
}

/// A compiled grammar. Does not change.
pub struct Grammar {
    fresh: llguidance::Matcher,
    shared: Arc<Shared>,
}

impl Grammar {
    /// At the beginning of a text. Shares nothing that changes, so the same tokens lead to the same state and to the
    /// same use of the bounded resources, whatever other matchers do.
    pub fn matcher(&self) -> Matcher {
        Matcher { inner: self.fresh.deep_clone(), shared: self.shared.clone() }
    }
}

/// How far a text has come in its grammar. After an error every call gives that error.
pub struct Matcher {
    inner: llguidance::Matcher,
    shared: Arc<Shared>,
}

impl Matcher {
    /// Bit `id % 32` of word `id / 32` says whether the token can come next.
    pub fn compute_mask(&mut self, mask: &mut [u32]) -> Result<(), String> {
        if mask.len() != self.shared.mask_words {
            return Err(format!("a mask has {} words, found {}", self.shared.mask_words, mask.len()));
        }
        let allowed = self.inner.compute_mask_or_eos().map_err(|error| brief(&error.to_string()))?;
        let words = allowed.as_slice().iter().zip(self.shared.tokens.as_slice());
        let mut any = 0;
        mask.fill(0);
        for (target, (allowed, known)) in mask.iter_mut().zip(words) {
            *target = allowed & known;
            any |= *target;
        }
        if any == 0 {
            return Err("no token can continue the text in the grammar".to_owned());
        }
        Ok(())
    }

    /// False for a token that cannot come next; the state is then as before.
    pub fn accept(&mut self, id: u32) -> Result<bool, String> {
        if let Some(error) = self.inner.get_error() {
            return Err(brief(&error));
        }
        let is_eos = self.shared.eos_ids.contains(&id);
        if self.inner.is_stopped() {
            return Ok(is_eos);
        }
        if (id as usize) >= self.shared.tokens.len() || !self.shared.tokens.is_allowed(id) {
            return Ok(false);
        }
        let result = match is_eos && self.is_accepting() {
            true => self.inner.consume_token(id).map(|()| 1),
            false => self.inner.try_consume_tokens(&[id]),
        };
        result.map(|count| count == 1).map_err(|error| brief(&error.to_string()))
    }

    /// Whether the text may end here.
    pub fn is_accepting(&mut self) -> bool {
        self.inner.is_accepting().unwrap_or(false)
    }

    /// Whether the text can only end here, or has.
    pub fn is_finished(&self) -> bool {
        self.inner.is_stopped() && !self.inner.is_error()
    }
}

#[cfg(test)]
#[path = "grammar_tests.rs"]
mod tests;
