//! Grammars of the form `root ::= "a" b*`: GBNF of llama.cpp and the EBNF of XGrammar, which clients of other servers
//! send. They are translated to the Lark syntax of `llguidance`.
//!
//! These formats describe characters; Lark has terminals that a lexer finds and rules over them. What does not refer to
//! itself is regular and becomes a terminal as a whole, so that the lexer takes it exactly; rules remain for the rest.
//! There the lexer prefers the longest terminal, so a grammar that ends a repetition only by what follows it may allow
//! less than it says, never more.

use std::collections::HashMap;
use std::fmt::Write;

const MAX_DEPTH: usize = 100;
/// Of regular rules that use regular rules, and so on.
const MAX_RULE_DEPTH: usize = 200;
const MAX_REPETITIONS: u32 = 10_000;

/// Whether the text is of this form rather than Lark, which has single colons.
pub fn is_gbnf(source: &str) -> bool {
    source.lines().any(|line| {
        let line = line.trim_start();
        let name = line.trim_start_matches(is_name_character);
        name.len() < line.len() && name.trim_start().starts_with("::=")
    })
}

/// A literal of Lark's: a string of JSON.
pub fn lark_literal(text: &str) -> String {
    let mut literal = String::with_capacity(text.len() + 2);
    literal.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => literal.extend(['\\', character]),
            '\0'..='\x1f' | '\x7f' => _ = write!(literal, "\\u{:04x}", character as u32),
            _ => literal.push(character),
        }
    }
    literal.push('"');
    literal
}

pub fn to_lark(source: &str) -> Result<String, String> {
    let rules = Parser::new(source).parse()?;
    Ok(Translation::new(&rules)?.run())
}

#[derive(Debug)]
enum Node {
    Literal(String),
    /// The text of a class of the regular expressions, like `[^a-z]`.
    Class(String),
    Rule(String),
    Sequence(Vec<Node>),
    Choice(Vec<Node>),
    Repeat(Box<Node>, u32, Option<u32>),
}

struct Rule {
    name: String,
    body: Node,
}

fn is_name_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '_' | '-' | '.')
}

struct Parser<'a> {
    source: &'a str,
    position: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn new(source: &'a str) -> Self {
        Self { source, position: 0, depth: 0 }
    }

    fn parse(mut self) -> Result<Vec<Rule>, String> {
        let mut rules = Vec::new();
        self.skip_blanks();
        while self.peek().is_some() {
            let name = self.name();
            self.skip_blanks();
            if name.is_empty() || !self.take("::=") {
                return Err(self.error("expected a rule, like name ::= \"text\""));
            }
            self.skip_blanks();
            let body = self.choice()?;
            rules.push(Rule { name: name.to_owned(), body });
        }
        Ok(rules)
    }

    fn error(&self, what: &str) -> String {
        let before = &self.source[..self.position];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|&character| character != '\n').count() + 1;
        format!("the grammar, line {line}, column {column}: {what}")
    }

    fn rest(&self) -> &'a str {
        &self.source[self.position..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let character = self.peek()?;
        self.position += character.len_utf8();
        Some(character)
    }

    fn take(&mut self, text: &str) -> bool {
        let found = self.rest().starts_with(text);
        if found {
            self.position += text.len();
        }
        found
    }

    fn name(&mut self) -> &'a str {
        let rest = self.rest();
        let length = rest.find(|character| !is_name_character(character)).unwrap_or(rest.len());
        self.position += length;
        &rest[..length]
    }

    fn skip_blanks(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start();
            self.position += rest.len() - trimmed.len();
            if !trimmed.starts_with('#') {
                return;
            }
            self.position += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    /// Whether the next rule begins here; rules may span lines.
    fn at_rule(&mut self) -> bool {
        let begin = self.position;
        let named = !self.name().is_empty();
        self.skip_blanks();
        let found = named && self.rest().starts_with("::=");
        self.position = begin;
        found
    }

    fn choice(&mut self) -> Result<Node, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error("the parentheses are nested too deeply"));
        }
        let mut options = vec![self.sequence()?];
        while self.take("|") {
            self.skip_blanks();
            options.push(self.sequence()?);
        }
        self.depth -= 1;
        Ok(if options.len() == 1 { options.remove(0) } else { Node::Choice(options) })
    }

    fn sequence(&mut self) -> Result<Node, String> {
        let mut items = Vec::new();
        while self.peek().is_some_and(|character| !matches!(character, '|' | ')')) && !self.at_rule() {
            let item = self.item()?;
            items.push(self.repeated(item)?);
        }
        Ok(if items.len() == 1 { items.remove(0) } else { Node::Sequence(items) })
    }

    fn item(&mut self) -> Result<Node, String> {
        if self.take("\"") {
            return self.literal();
        }
        if self.take("[") {
            return self.class();
        }
        if self.take("(") {
            if self.rest().starts_with('=') {
                return Err(self.error("lookahead is not supported"));
            }
            self.skip_blanks();
            let inner = self.choice()?;
            if !self.take(")") {
                return Err(self.error("expected \")\""));
            }
            return Ok(inner);
        }
        if self.take(".") {
            return Ok(Node::Class("(?s:.)".to_owned()));
        }
        let name = self.name();
        if name.is_empty() {
            return Err(self.error("expected a text, a class of characters, a name or \"(\""));
        }
        if self.rest().starts_with('(') {
            return Err(self.error(&format!("{name}(...) is not supported")));
        }
        Ok(Node::Rule(name.to_owned()))
    }

    fn repeated(&mut self, mut node: Node) -> Result<Node, String> {
        loop {
            self.skip_blanks();
            let (from, to) = match self.peek() {
                Some('*') => (0, None),
                Some('+') => (1, None),
                Some('?') => (0, Some(1)),
                Some('{') => {
                    let (from, to) = self.range()?;
                    node = Node::Repeat(Box::new(node), from, to);
                    continue;
                }
                _ => return Ok(node),
            };
            self.next();
            node = Node::Repeat(Box::new(node), from, to);
        }
    }

    /// {n}, {n,}, {n,m} or {,m}
    fn range(&mut self) -> Result<(u32, Option<u32>), String> {
        let length = self.rest().find('}').ok_or_else(|| self.error("expected \"}\""))?;
        let inner = &self.rest()[1..length];
        let number = |text: &str, missing: Option<u32>| match text.trim() {
            "" => Ok(missing),
            digits => {
                digits.parse().ok().filter(|&number| number <= MAX_REPETITIONS).map(Some).ok_or_else(|| {
                    self.error(&format!("expected a number up to {MAX_REPETITIONS}, found {digits}"))
                })
            }
        };
        let (from, to) = match inner.split_once(',') {
            Some((from, to)) => (number(from, Some(0))?, number(to, None)?),
            None => (number(inner, None)?, number(inner, None)?),
        };
        match (from, to) {
            (Some(from), to) if to.is_none_or(|to| from <= to) => {
                self.position += length + 1;
                Ok((from, to))
            }
            _ => Err(self.error("this is no range of repetitions")),
        }
    }

    fn literal(&mut self) -> Result<Node, String> {
        let mut text = String::new();
        loop {
            match self.next() {
                None | Some('\n') => return Err(self.error("the text has no end")),
                Some('"') => return Ok(Node::Literal(text)),
                Some('\\') => text.push(self.escape()?),
                Some(character) => text.push(character),
            }
        }
    }

    /// After the backslash.
    fn escape(&mut self) -> Result<char, String> {
        let digits = match self.next() {
            Some('n') => return Ok('\n'),
            Some('r') => return Ok('\r'),
            Some('t') => return Ok('\t'),
            Some('0') => return Ok('\0'),
            Some('a') => return Ok('\x07'),
            Some('b') => return Ok('\x08'),
            Some('f') => return Ok('\x0c'),
            Some('v') => return Ok('\x0b'),
            Some('e') => return Ok('\x1b'),
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            Some(character) if character.is_ascii_punctuation() => return Ok(character),
            _ => return Err(self.error("this is no escape sequence")),
        };
        let code = self.rest().get(..digits).and_then(|text| u32::from_str_radix(text, 16).ok());
        let character = code.and_then(char::from_u32);
        let character = character.ok_or_else(|| self.error("this is no code of a character"))?;
        self.position += digits;
        Ok(character)
    }

    fn class(&mut self) -> Result<Node, String> {
        let mut class = String::from("[");
        if self.take("^") {
            class.push('^');
        }
        let mut count = 0;
        while !self.take("]") {
            let from = self.class_character()?;
            let to = match self.rest().starts_with('-') && !self.rest().starts_with("-]") {
                true => {
                    self.next();
                    self.class_character()?
                }
                false => from,
            };
            if from > to {
                return Err(self.error("the range ends before it begins"));
            }
            _ = write!(class, "\\u{{{:x}}}-\\u{{{:x}}}", from as u32, to as u32);
            count += 1;
        }
        if count == 0 {
            return Err(self.error("the class of characters is empty"));
        }
        class.push(']');
        Ok(Node::Class(class))
    }

    fn class_character(&mut self) -> Result<char, String> {
        match self.next() {
            None => Err(self.error("the class of characters has no end")),
            Some('\\') => self.escape(),
            Some(character) => Ok(character),
        }
    }
}

/// Rules become `r0`, `r1`, ... or, where they are regular, terminals `T0`, `T1`, ...; regular parts of other rules
/// become terminals `X0`, `X1`, ...
struct Translation<'a> {
    rules: &'a [Rule],
    index_of: HashMap<&'a str, usize>,
    regular: Vec<bool>,
    parts: Vec<String>,
}

impl<'a> Translation<'a> {
    fn new(rules: &'a [Rule]) -> Result<Self, String> {
        let mut index_of = HashMap::new();
        for (index, rule) in rules.iter().enumerate() {
            if index_of.insert(rule.name.as_str(), index).is_some() {
                return Err(format!("the grammar has two rules of the name {}", rule.name));
            }
        }
        if !index_of.contains_key("root") {
            return Err("the grammar has no rule of the name root".to_owned());
        }
        let mut this = Self { rules, index_of, regular: Vec::new(), parts: Vec::new() };
        this.regular = this.find_regular()?;
        Ok(this)
    }

    /// A rule is regular when all that it refers to are. Rules that refer to themselves never become so.
    fn find_regular(&self) -> Result<Vec<bool>, String> {
        let mut users = vec![Vec::new(); self.rules.len()];
        let mut open = vec![0; self.rules.len()]; // references to rules that are not known to be regular
        for (index, rule) in self.rules.iter().enumerate() {
            let mut names = Vec::new();
            collect_names(&rule.body, &mut names);
            open[index] = names.len();
            for name in names {
                let Some(&used) = self.index_of.get(name) else {
                    return Err(format!(
                        "the grammar has no rule of the name {name}, which {} uses",
                        rule.name
                    ));
                };
                users[used].push(index);
            }
        }
        let mut regular = vec![false; self.rules.len()];
        let mut depth = vec![0; self.rules.len()];
        let mut ready: Vec<usize> = (0..open.len()).filter(|&index| open[index] == 0).collect();
        while let Some(index) = ready.pop() {
            regular[index] = true;
            if depth[index] > MAX_RULE_DEPTH {
                return Err(format!("the grammar has more than {MAX_RULE_DEPTH} rules that use one another"));
            }
            for &user in &users[index] {
                depth[user] = depth[user].max(depth[index] + 1);
                open[user] -= 1;
                if open[user] == 0 {
                    ready.push(user);
                }
            }
        }
        Ok(regular)
    }

    fn run(mut self) -> String {
        let mut lark = format!("start: {}\n", self.name(self.index_of["root"]));
        for (index, rule) in self.rules.iter().enumerate() {
            let body = match self.regular[index] {
                true => self.terminal(&rule.body),
                false => self.rule(&rule.body),
            };
            _ = writeln!(lark, "{}: {body}", self.name(index));
        }
        for (index, part) in self.parts.iter().enumerate() {
            _ = writeln!(lark, "X{index}: {part}");
        }
        lark
    }

    fn name(&self, index: usize) -> String {
        format!("{}{index}", if self.regular[index] { 'T' } else { 'r' })
    }

    fn is_regular(&self, node: &Node) -> bool {
        let mut names = Vec::new();
        collect_names(node, &mut names);
        names.into_iter().all(|name| self.regular[self.index_of[name]])
    }

    fn terminal(&self, node: &Node) -> String {
        let all = |nodes: &[Node]| nodes.iter().map(|node| self.terminal(node)).collect();
        match node {
            Node::Literal(text) => lark_literal(text),
            Node::Class(class) => format!("/{class}/"),
            Node::Rule(name) => self.name(self.index_of[name.as_str()]),
            Node::Sequence(items) => sequence(all(items)),
            Node::Choice(options) => choice(all(options)),
            Node::Repeat(inner, from, to) => repeat(&self.terminal(inner), *from, *to),
        }
    }

    /// As part of a rule that is not regular.
    fn rule(&mut self, node: &Node) -> String {
        if self.is_regular(node) {
            let text = self.terminal(node);
            return match node {
                Node::Literal(_) | Node::Class(_) | Node::Rule(_) => text,
                _ => self.part(text),
            };
        }
        match node {
            Node::Literal(_) | Node::Class(_) | Node::Rule(_) => self.terminal(node),
            Node::Sequence(items) => {
                let mut parts = Vec::new();
                let mut run = Vec::new(); // neighbours that are regular
                for item in items {
                    if self.is_regular(item) {
                        run.push(self.terminal(item));
                        continue;
                    }
                    if !run.is_empty() {
                        parts.push(self.part(sequence(std::mem::take(&mut run))));
                    }
                    parts.push(self.rule(item));
                }
                if !run.is_empty() {
                    parts.push(self.part(sequence(run)));
                }
                sequence(parts)
            }
            Node::Choice(options) => choice(options.iter().map(|option| self.rule(option)).collect()),
            Node::Repeat(inner, from, to) => repeat(&self.rule(inner), *from, *to),
        }
    }

    fn part(&mut self, text: String) -> String {
        if text == EMPTY {
            return text;
        }
        self.parts.push(text);
        format!("X{}", self.parts.len() - 1)
    }
}

const EMPTY: &str = "\"\"";

fn sequence(items: Vec<String>) -> String {
    if items.is_empty() {
        return EMPTY.to_owned();
    }
    format!("({})", items.join(" "))
}

fn choice(options: Vec<String>) -> String {
    format!("({})", options.join(" | "))
}

fn repeat(inner: &str, from: u32, to: Option<u32>) -> String {
    match (from, to) {
        (_, Some(0)) => EMPTY.to_owned(),
        (0, None) => format!("({inner})*"),
        (1, None) => format!("({inner})+"),
        (0, Some(1)) => format!("({inner})?"),
        (from, None) => format!("({inner}){{{from},}}"),
        (from, Some(to)) => format!("({inner}){{{from},{to}}}"),
    }
}

fn collect_names<'a>(node: &'a Node, names: &mut Vec<&'a str>) {
    match node {
        Node::Literal(_) | Node::Class(_) => {}
        Node::Rule(name) => names.push(name),
        Node::Sequence(nodes) | Node::Choice(nodes) => {
            nodes.iter().for_each(|node| collect_names(node, names));
        }
        Node::Repeat(inner, ..) => collect_names(inner, names),
    }
}
