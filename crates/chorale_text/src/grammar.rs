//! Grammars that constrain what a model may say: which tokens can follow, by the crate `llguidance`.
//!
//! Sources come from requests, so whatever is done with them has bounds: their size, the nesting and the size of the
//! compiled grammar, and the work of every step.

use std::sync::Arc;

use llguidance::api::{GrammarInit, ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{derivre, Logger, ParserFactory};
use serde_json::{json, Value};

use crate::gbnf;
use crate::tokenizer::Tokenizer;

const MAX_SCHEMA_BYTES: usize = 256 << 10;
const MAX_GRAMMAR_BYTES: usize = 64 << 10;
const MAX_REGEX_BYTES: usize = 4 << 10;
/// Of what the server itself writes around the schemas of a request, and of all properties in it.
const MAX_WRITTEN_BYTES: usize = 1 << 20;
const MAX_WRITTEN_PROPERTIES: usize = 4000;
/// Signs that make parts optional or repeat them: the first step may take the square of this.
const MAX_REPEATERS_OF_GRAMMAR: usize = 1000;
const MAX_REPEATERS_OF_REGEX: usize = 500;
/// Of a grammar in Lark; they are looked into by recursion.
const MAX_TERMINALS: usize = 512;
const MAX_PATTERN_BYTES: usize = 4 << 10;
const MAX_CHOICES: usize = 4096;
/// Of all objects of a schema together; the cost grows with their square.
const MAX_PROPERTIES: usize = 1000;
/// Of the least common multiple of all `multipleOf`s without their decimal points: a lexer counts that far.
const MAX_MULTIPLE: u64 = 10_000;
const MAX_ERROR_BYTES: usize = 600;

/// Compiling descends into nested parts. With this much stack, sources of the sizes above cannot exhaust it; memory is
/// only taken for what is used.
const COMPILE_STACK_BYTES: usize = 256 << 20;

/// Between two parts of a JSON text: nothing, blanks, or line ends with an indentation. Bounded, because a model that
/// may write blanks for ever sometimes does.
const JSON_WHITESPACE: &str = r"[ \t]{1,2}|(\r?\n){1,2}[ \t]{0,40}";

fn limits(kind: Kind) -> ParserLimits {
    ParserLimits {
        max_lexer_states: 50_000, // a state takes 1 to 2 kB, and every matcher has its own
        max_grammar_size: 200_000,
        // The first step may take the square of this; for schemas the patterns are bounded instead.
        initial_lexer_fuel: if kind.is_of_schemas() { 500_000 } else { 50_000 },
        step_lexer_fuel: 100_000,
        precompute_large_lexemes: false, // its time has no bound
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
    /// Where parts of a schema that the library cannot enforce say nothing.
    LenientJsonSchema,
    /// Lark that the server wrote around schemas of a request; the options in these are its own.
    Written,
}

impl Kind {
    pub fn from_number(number: i32) -> Option<Self> {
        const KINDS: [Kind; 8] = [
            Kind::JsonSchema,
            Kind::JsonObject,
            Kind::Regex,
            Kind::Ebnf,
            Kind::Choice,
            Kind::Lark,
            Kind::LenientJsonSchema,
            Kind::Written,
        ];
        KINDS.get(usize::try_from(number).ok()?).copied()
    }

    fn is_of_schemas(self) -> bool {
        matches!(self, Self::JsonSchema | Self::LenientJsonSchema | Self::Written)
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
        // Not the tokenizer itself: where the grammar leaves no choice of text, the model keeps that of its tokens.
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices())
            .map_err(|error| brief(&error.to_string()))?;
        factory.quiet();
        let shared = Shared { eos_ids: eos_ids.to_vec(), tokens, mask_words: vocab_size.div_ceil(32) };
        Ok(Self { factory, shared: Arc::new(shared) })
    }

    /// An unusable source is an error that says why, in a bounded text, time and memory.
    pub fn compile(&self, kind: Kind, source: &str) -> Result<Grammar, String> {
        let compile = || {
            let grammar = to_top_level(kind, source)?;
            let mut matcher = llguidance::Matcher::new(self.factory.create_parser_from_init_ext(
                GrammarInit::Serialized(grammar),
                Logger::new(0, 0),
                InferenceCapabilities::default(),
                limits(kind),
            ));
            // A first mask shows whether the grammar is too complex, or has no text.
            matcher.compute_mask_or_eos().map_err(|error| error.to_string())?;
            Ok(Grammar { fresh: matcher, shared: self.shared.clone() })
        };
        let result = std::thread::scope(|scope| {
            let worker = std::thread::Builder::new().stack_size(COMPILE_STACK_BYTES);
            let worker = worker.spawn_scoped(scope, compile).map_err(|error| error.to_string())?;
            worker.join().unwrap_or_else(|_| Err("an error inside a library".to_owned()))
        });
        result.map_err(|error| brief(&error))
    }
}

/// Where all tokens of one of these patterns can follow, the mask takes them as a whole and looks at none of them. Beside
/// what is inside of JSON's texts: words, of which most of a vocabulary consists, where other marks may not stand.
fn slices() -> Vec<String> {
    let words = ["[a-z ]{1,10}", "[a-zA-Z0-9 ]{1,10}"].map(str::to_owned);
    SlicedBiasComputer::json_slices().into_iter().chain(words).collect()
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

fn to_top_level(kind: Kind, source: &str) -> Result<TopLevelGrammar, String> {
    let (name, max_bytes) = match kind {
        Kind::JsonSchema | Kind::LenientJsonSchema | Kind::JsonObject => ("JSON schema", MAX_SCHEMA_BYTES),
        Kind::Regex => ("regular expression", MAX_REGEX_BYTES),
        Kind::Ebnf | Kind::Lark => ("grammar", MAX_GRAMMAR_BYTES),
        Kind::Choice => ("list of choices", MAX_SCHEMA_BYTES),
        Kind::Written => ("grammar of all schemas", MAX_WRITTEN_BYTES),
    };
    if source.len() > max_bytes {
        return Err(format!("the {name} has {} bytes; at most {max_bytes} are allowed", source.len()));
    }
    match kind {
        Kind::JsonSchema | Kind::LenientJsonSchema => json_schema(source, kind == Kind::LenientJsonSchema),
        Kind::JsonObject => with_options(json!({"type": "object"}), false),
        Kind::Regex => regex(source),
        Kind::Ebnf if gbnf::is_gbnf(source) => from_lark(gbnf::to_lark(source)?),
        Kind::Ebnf | Kind::Lark => lark(source),
        Kind::Choice => choice(source),
        Kind::Written => written(source),
    }
}

fn json_schema(source: &str, lenient: bool) -> Result<TopLevelGrammar, String> {
    // The parser of JSON bounds the nesting.
    let schema: Value = serde_json::from_str(source)
        .map_err(|error| format!("the JSON schema is not valid JSON: {error}"))?;
    match schema {
        Value::Bool(true) => with_options(json!({}), lenient),
        Value::Object(_) => {
            SchemaLimits::check(&schema)?;
            with_options(schema, lenient)
        }
        _ => Err("the JSON schema is neither an object nor true".to_owned()),
    }
}

/// What of a schema takes more work than its size tells, and than the library bounds.
struct SchemaLimits {
    properties: usize,
    multiple: u64,
}

impl SchemaLimits {
    fn check(schema: &Value) -> Result<(), String> {
        if schema.get("x-guidance").is_some() {
            return Err("the JSON schema's key \"x-guidance\" is not supported".to_owned());
        }
        Self::count(schema).map(|_| ())
    }

    /// The number of its properties.
    fn count(schema: &Value) -> Result<usize, String> {
        let mut limits = Self { properties: 0, multiple: 1 };
        limits.visit(schema)?;
        Ok(limits.properties)
    }

    fn visit(&mut self, value: &Value) -> Result<(), String> {
        match value {
            Value::Array(items) => items.iter().try_for_each(|item| self.visit(item)),
            Value::Object(entries) => entries.iter().try_for_each(|(key, entry)| {
                match (key.as_str(), entry) {
                    ("properties", Value::Object(properties)) => self.add_properties(properties.len())?,
                    ("pattern", Value::String(pattern)) => check_pattern(pattern)?,
                    ("patternProperties", Value::Object(patterns)) => {
                        self.add_properties(patterns.len())?;
                        patterns.keys().try_for_each(|pattern| check_pattern(pattern))?;
                    }
                    ("multipleOf", Value::Number(number)) => self.add_multiple(&number.to_string())?,
                    _ => {}
                }
                self.visit(entry)
            }),
            _ => Ok(()),
        }
    }

    fn add_properties(&mut self, count: usize) -> Result<(), String> {
        self.properties += count;
        if self.properties > MAX_PROPERTIES {
            return Err(format!("the JSON schema has more than {MAX_PROPERTIES} properties"));
        }
        Ok(())
    }

    fn add_multiple(&mut self, number: &str) -> Result<(), String> {
        let digits = number.strip_suffix(".0").unwrap_or(number).replace('.', "");
        let step = digits.parse().ok().filter(|step| (1..=MAX_MULTIPLE).contains(step));
        let multiple = step.map(|step| self.multiple / gcd(self.multiple, step) * step);
        match multiple.filter(|multiple| *multiple <= MAX_MULTIPLE) {
            Some(multiple) => self.multiple = multiple,
            None => return Err(format!("the JSON schema's multipleOf {number} is out of range")),
        }
        Ok(())
    }
}

fn check_pattern(pattern: &str) -> Result<(), String> {
    if pattern.len() > MAX_PATTERN_BYTES {
        return Err(format!(
            "a pattern of the JSON schema has {} bytes; at most {MAX_PATTERN_BYTES} are allowed",
            pattern.len()
        ));
    }
    check_repeaters(pattern, MAX_REPEATERS_OF_REGEX)
}

/// Why a `pattern` of a JSON schema cannot be enforced, if so.
pub fn unsupported_pattern(pattern: &str) -> Option<String> {
    let supported = check_pattern(pattern).and_then(|()| {
        let mut builder = derivre::RegexBuilder::new();
        let ast = derivre::RegexAst::SearchRegex(llguidance::regex_to_lark(pattern, "dw"));
        builder.mk(&ast).map(|_| ()).map_err(|error| brief(&error.to_string()))
    });
    supported.err()
}

fn gcd(a: u64, b: u64) -> u64 {
    match b {
        0 => a,
        _ => gcd(b, a % b),
    }
}

fn with_options(mut schema: Value, lenient: bool) -> Result<TopLevelGrammar, String> {
    schema["x-guidance"] =
        json!({"whitespace_flexible": true, "whitespace_pattern": JSON_WHITESPACE, "lenient": lenient});
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
    check_repeaters(body, MAX_REPEATERS_OF_REGEX)?;
    Ok(TopLevelGrammar::from_regex(body))
}

fn lark(source: &str) -> Result<TopLevelGrammar, String> {
    if source.trim().is_empty() {
        return Err("the grammar is empty".to_owned());
    }
    let is_terminal = |line: &&str| {
        let name = line.trim_start().split([':', '.', ' ', '\t']).next().unwrap_or_default();
        name.contains(|character: char| character.is_ascii_uppercase())
    };
    if source.lines().filter(is_terminal).count() > MAX_TERMINALS {
        return Err(format!("the grammar has more than {MAX_TERMINALS} terminals"));
    }
    schemas_in(source).try_for_each(|mut schema| {
        // The one option that has no cost: JSON on one line.
        let one_line = json!({"whitespace_flexible": true, "whitespace_pattern": " "});
        if let Value::Object(entries) = &mut schema {
            if entries.get("x-guidance") == Some(&one_line) {
                entries.remove("x-guidance");
            }
        }
        SchemaLimits::check(&schema)
    })?;
    from_lark(source.to_owned())
}

/// Of a grammar in Lark, as the library finds them; what is no JSON it refuses, or it stands in a text.
fn schemas_in(source: &str) -> impl Iterator<Item = Value> + '_ {
    source.match_indices("%json").filter_map(|(position, mark)| {
        serde_json::Deserializer::from_str(&source[position + mark.len()..]).into_iter().next()?.ok()
    })
}

/// The bounds of a client's grammar are not for what the server adds to its schemas, which have bounds of their own.
fn written(source: &str) -> Result<TopLevelGrammar, String> {
    let mut properties = 0;
    for schema in schemas_in(source) {
        properties += SchemaLimits::count(&schema)?;
    }
    if properties > MAX_WRITTEN_PROPERTIES {
        return Err(format!("the JSON schemas have more than {MAX_WRITTEN_PROPERTIES} properties"));
    }
    Ok(TopLevelGrammar::from_lark(source.to_owned()))
}

fn from_lark(source: String) -> Result<TopLevelGrammar, String> {
    check_repeaters(&source, MAX_REPEATERS_OF_GRAMMAR)?;
    Ok(TopLevelGrammar::from_lark(source))
}

fn check_repeaters(source: &str, limit: usize) -> Result<(), String> {
    if source.matches(['?', '*', '+', '{']).count() > limit {
        return Err(format!("it has more than {limit} of the signs ?, *, + and {{"));
    }
    Ok(())
}

fn choice(source: &str) -> Result<TopLevelGrammar, String> {
    let choices: Vec<String> = serde_json::from_str(source)
        .map_err(|error| format!("the choices are not a list of texts: {error}"))?;
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
    let message = match message[..end].trim_end() {
        "NoExtensionBias" => "the grammar allows no text from here on",
        text if text.contains("oneOf constraints are not supported") => {
            "\"oneOf\" whose options may overlap is not supported"
        }
        other => other,
    };
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
