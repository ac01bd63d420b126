//! Over the tokenizer of the bundled model; the C++ tests of `text/grammar.h` go further.

use std::sync::OnceLock;

use super::*;

const EOS: u32 = 4066; // <|im_end|>
const VOCAB: usize = 4096; // six rows more than the tokenizer has tokens

fn tokenizer() -> &'static Tokenizer {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    TOKENIZER.get_or_init(|| {
        let json = include_bytes!("../../../models/tales-moe/tokenizer.json");
        Tokenizer::new(json, None).unwrap()
    })
}

fn environment() -> &'static Environment {
    static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| Environment::new(tokenizer(), VOCAB, &[EOS]).unwrap())
}

/// Whether the tokens of the text lead to a place where it may end.
fn matches(kind: Kind, source: &str, text: &str) -> bool {
    let mut matcher = environment().compile(kind, source).unwrap().matcher();
    let ids = tokenizer().encode(text, false).unwrap();
    ids.into_iter().all(|id| matcher.accept(id).unwrap()) && matcher.is_accepting()
}

fn error_of(kind: Kind, source: &str) -> String {
    environment().compile(kind, source).err().expect("an error")
}

#[test]
fn the_end_is_allowed_where_the_text_is_complete() {
    let mut matcher = environment().compile(Kind::Regex, "ab?").unwrap().matcher();
    let mut mask = vec![0; VOCAB / 32];
    let is_set = |mask: &[u32], id: u32| mask[id as usize / 32] >> (id % 32) & 1 == 1;
    matcher.compute_mask(&mut mask).unwrap();
    assert!(!is_set(&mask, EOS));
    assert!(!matcher.accept(EOS).unwrap());
    assert!(matcher.accept(tokenizer().token_to_id("a").unwrap()).unwrap());
    matcher.compute_mask(&mut mask).unwrap();
    assert!(is_set(&mask, EOS) && !matcher.is_finished());
    assert!(matcher.accept(EOS).unwrap() && matcher.is_finished());
}

#[test]
fn gbnf_is_told_from_lark() {
    assert!(gbnf::is_gbnf("# start: a\n  root ::= \"a\""));
    assert!(gbnf::is_gbnf("root::=\"a\""));
    assert!(!gbnf::is_gbnf("start: \"root ::= a\""));
}

#[test]
fn regular_parts_of_gbnf_become_terminals() {
    let lark = gbnf::to_lark("root ::= \"a\" [b-c]* root | d\nd ::= \"x\" | \"\"").unwrap();
    assert_eq!(
        lark,
        "start: r0\nr0: ((X0 r0) | T1)\nT1: (\"x\" | \"\")\nX0: (\"a\" (/[\\u{62}-\\u{63}]/)*)\n"
    );
    assert!(matches(Kind::Ebnf, "root ::= \"a\" [b-c]* root | d\nd ::= \"x\" | \"\"", "abcax"));
}

#[test]
fn errors_are_brief() {
    let long = format!("start: {}", "x".repeat(5000));
    assert!(error_of(Kind::Lark, &long).len() <= MAX_ERROR_BYTES + 3);
    assert_eq!(brief("why\n<state>\nall of it"), "why");
    assert_eq!(brief(&"\u{e9}".repeat(1000)).len(), MAX_ERROR_BYTES + 3);
}

#[test]
fn multiples_are_bounded_together() {
    let check = |text: &str| SchemaLimits::check(&serde_json::from_str(text).unwrap());
    assert!(check(r#"{"allOf": [{"multipleOf": 100}, {"multipleOf": 0.25}]}"#).is_ok());
    assert!(check(r#"{"allOf": [{"multipleOf": 9973}, {"multipleOf": 97}]}"#).is_err());
    assert!(check(r#"{"multipleOf": 1e9}"#).is_err());
    assert!(error_of(Kind::Lark, r#"start: %json {"multipleOf": 1234567}"#).contains("multipleOf"));
}
