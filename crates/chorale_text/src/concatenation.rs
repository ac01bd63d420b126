//! `a ~ b` in templates with Python's texts of its operands: 1e-07, not 0.0000001.
//!
//! The template engine concatenates what its values display, and lets nobody change that. So `a ~ b ~ c` becomes
//! `([a,b,c]|concatenated)` before a template is compiled, with a filter of ours, which costs what the engine's own does.
use std::collections::BTreeSet;

use minijinja::machinery::{tokenize, Span, Token};
use minijinja::syntax::SyntaxConfig;

/// Words that end an operand. `is` does not: its test belongs to the operand, as a filter does.
const KEYWORDS: [&str; 9] = ["and", "or", "not", "in", "if", "else", "recursive", "ignore", "as"];

/// The filter's name: none that templates have.
pub const FILTER: &str = "concatenated";

/// The source with its `~` written as the filter; None where it has none, or is not understood.
pub fn with_python_texts(source: &str, syntax: &SyntaxConfig) -> Option<String> {
    if !source.contains('~') {
        return None;
    }
    let tokens = tokenize(source, false, syntax.clone()).collect::<Result<Vec<_>, _>>().ok()?;
    let mut edits = Vec::new();
    let mut in_chains = BTreeSet::new();
    for at in (0..tokens.len()).filter(|at| matches!(tokens[*at].0, Token::Tilde)) {
        if in_chains.contains(&at) {
            continue;
        }
        let first = tokens[operand_begin(&tokens, at)?].1.start_offset as usize;
        edits.push((first..first, "(["));
        let mut next = at;
        while matches!(tokens.get(next)?.0, Token::Tilde) {
            in_chains.insert(next);
            let tilde = tokens[next].1;
            edits.push((tilde.start_offset as usize..tilde.end_offset as usize, ","));
            next = operand_end(&tokens, next)?;
        }
        let last = tokens[next - 1].1.end_offset as usize;
        edits.push((last..last, "]|concatenated)"));
    }
    edits.sort_by_key(|(place, _)| place.start);
    let mut out = String::with_capacity(source.len() + 20 * edits.len());
    let mut done = 0;
    for (place, text) in edits {
        out.push_str(source.get(done..place.start)?);
        out.push_str(text);
        done = place.end;
    }
    out.push_str(source.get(done..)?);
    Some(out)
}

/// The first token of the operand that ends before the `~` at `at`.
fn operand_begin(tokens: &[(Token<'_>, Span)], at: usize) -> Option<usize> {
    let mut depth = 0;
    for i in (0..at).rev() {
        match tokens[i].0 {
            Token::BracketClose | Token::ParenClose | Token::BraceClose => depth += 1,
            Token::BracketOpen | Token::ParenOpen | Token::BraceOpen if depth > 0 => depth -= 1,
            _ if depth == 0 && ends_operand(tokens, i) => return (i + 1 < at).then_some(i + 1),
            _ => {}
        }
    }
    None
}

/// One beyond the last token of the operand that begins after the `~` at `at`.
fn operand_end(tokens: &[(Token<'_>, Span)], at: usize) -> Option<usize> {
    let mut depth = 0;
    for i in at + 1..tokens.len() {
        match tokens[i].0 {
            Token::BracketOpen | Token::ParenOpen | Token::BraceOpen => depth += 1,
            Token::BracketClose | Token::ParenClose | Token::BraceClose if depth > 0 => depth -= 1,
            _ if depth == 0 && ends_operand(tokens, i) => return (i > at + 1).then_some(i),
            _ => {}
        }
    }
    None
}

/// Whether the token binds no tighter than `~`, outside of brackets.
fn ends_operand(tokens: &[(Token<'_>, Span)], i: usize) -> bool {
    let before = i.checked_sub(1).map(|before| &tokens[before].0);
    match &tokens[i].0 {
        Token::Ident(word) => match before {
            Some(Token::Dot | Token::Pipe) => false,
            Some(Token::BlockStart) => true, // the statement's name
            Some(Token::Ident("is")) => false,
            _ => KEYWORDS.contains(word),
        },
        Token::Minus => before.is_some_and(ends_value), // else it is a sign
        Token::Str(_) | Token::String(_) | Token::Int(_) | Token::Int128(_) | Token::Float(_) => false,
        Token::Mul | Token::Div | Token::FloorDiv | Token::Pow | Token::Mod | Token::Dot | Token::Pipe => {
            false
        }
        _ => true,
    }
}

fn ends_value(token: &Token<'_>) -> bool {
    match token {
        Token::Ident(word) => !KEYWORDS.contains(word),
        Token::Str(_) | Token::String(_) | Token::Int(_) | Token::Int128(_) | Token::Float(_) => true,
        Token::BracketClose | Token::ParenClose | Token::BraceClose => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::with_python_texts;
    use minijinja::syntax::SyntaxConfig;

    fn rewritten(source: &str) -> String {
        with_python_texts(source, &SyntaxConfig::default()).unwrap_or_else(|| source.to_owned())
    }

    #[test]
    fn chains_become_filtered_lists() {
        for (source, expected) in [
            ("{{ a ~ b }}", "{{ ([a , b]|concatenated) }}"),
            ("{{ 'x'~a.b[0]|f(1) ~ 'y' }}", "{{ (['x',a.b[0]|f(1) , 'y']|concatenated) }}"),
            ("{{ 1 - -a * 2 ~ b + c }}", "{{ 1 - ([-a * 2 , b]|concatenated) + c }}"),
            (
                "{{ f(a ~ b, k=c ~ 'd') ~ (e ~ f) }}",
                "{{ ([f(([a , b]|concatenated), k=([c , 'd']|concatenated)) , (([e , f]|concatenated))]|concatenated) }}",
            ),
            (
                "{% if a ~ b == c and x not in d ~ e %}~{% endif %}",
                "{% if ([a , b]|concatenated) == c and x not in ([d , e]|concatenated) %}~{% endif %}",
            ),
            (
                "{%- set x = a ~ b if c is not none else d ~ e -%}",
                "{%- set x = ([a , b]|concatenated) if c is not none else ([d , e]|concatenated) -%}",
            ),
            ("{{ a ~ b is not none }}", "{{ ([a , b is not none]|concatenated) }}"),
            (
                "{{ [a ~ 1, {'k': b ~ c}][x ~ y:] }}",
                "{{ [([a , 1]|concatenated), {'k': ([b , c]|concatenated)}][([x , y]|concatenated):] }}",
            ),
            ("{{ [1] ~ {} ~ () }}", "{{ ([[1] , {} , ()]|concatenated) }}"),
            ("{% raw %}{{ a ~ b }}{% endraw %}", "{% raw %}{{ a ~ b }}{% endraw %}"),
            ("ä~ü {{ a ~ 'ü' }}\n", "ä~ü {{ ([a , 'ü']|concatenated) }}\n"),
            ("{# a ~ b #}{{ 'a ~' }}", "{# a ~ b #}{{ 'a ~' }}"),
            ("{{ a ~ }}", "{{ a ~ }}"),
            ("{{ ~ a }}", "{{ ~ a }}"),
            ("{{ a ~ ~ b }}", "{{ a ~ ~ b }}"),
            ("{{ a ~ b", "{{ a ~ b"),
        ] {
            assert_eq!(rewritten(source), expected);
        }
    }
}
