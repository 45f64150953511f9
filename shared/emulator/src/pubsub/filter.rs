//! Filters of subscriptions (<https://cloud.google.com/pubsub/docs/subscription-message-filter>).
//!
//! ```text
//! filter     = term { "AND" term } | term { "OR" term }
//! term       = [ "NOT" | "-" ] ( comparison | "(" filter ")" )
//! comparison = "attributes" ":" key
//!            | "attributes" "." key ( "=" | "!=" ) string
//!            | "hasPrefix" "(" "attributes" "." key "," string ")"
//! ```

use std::collections::HashMap;
use std::iter::Peekable;
use std::str::Chars;

use crate::status::Status;

/// Longest filter in bytes, as at Google.
const MAX_BYTES: usize = 256;
/// Deepest nesting, much deeper than useful filters of that length.
const MAX_DEPTH: usize = 32;

/// A condition on the attributes of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AttributeFilter {
    Has(String),
    Equals(String, String),
    HasPrefix(String, String),
    Not(Box<Self>),
    All(Vec<Self>),
    Any(Vec<Self>),
}

impl AttributeFilter {
    /// Parses a filter. An empty filter accepts every message.
    pub(super) fn parse(text: &str) -> Result<Option<Self>, Status> {
        if text.is_empty() {
            return Ok(None);
        }
        if text.len() > MAX_BYTES {
            let text = format!("The filter has {} bytes, more than {MAX_BYTES}.", text.len());
            return Err(Status::invalid(text));
        }
        let parsed = tokens(text).and_then(|tokens| {
            let mut parser = Parser { tokens: tokens.into_iter().peekable(), depth: 0 };
            let filter = parser.filter()?;
            match parser.tokens.next() {
                None => Ok(filter),
                Some(token) => Err(format!("unexpected {token:?} after the filter")),
            }
        });
        parsed.map(Some).map_err(|wrong| {
            Status::invalid(format!("Invalid filter `{text}` of the subscription: {wrong}."))
        })
    }

    pub(super) fn matches(&self, attributes: &HashMap<String, String>) -> bool {
        match self {
            Self::Has(key) => attributes.contains_key(key),
            Self::Equals(key, value) => attributes.get(key) == Some(value),
            Self::HasPrefix(key, prefix) => {
                attributes.get(key).is_some_and(|value| value.starts_with(prefix))
            }
            Self::Not(filter) => !filter.matches(attributes),
            Self::All(filters) => filters.iter().all(|filter| filter.matches(attributes)),
            Self::Any(filters) => filters.iter().any(|filter| filter.matches(attributes)),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum FilterToken {
    Word(String),
    Text(String),
    Sign(&'static str),
}

fn tokens(text: &str) -> Result<Vec<FilterToken>, String> {
    let mut chars = text.chars().peekable();
    let mut tokens = Vec::new();
    while let Some(&c) = chars.peek() {
        let sign = match c {
            _ if c.is_whitespace() => None,
            '"' => {
                chars.next();
                tokens.push(FilterToken::Text(string(&mut chars)?));
                continue;
            }
            ':' => Some(":"),
            '.' => Some("."),
            ',' => Some(","),
            '(' => Some("("),
            ')' => Some(")"),
            '=' => Some("="),
            '!' => {
                chars.next();
                if chars.peek() != Some(&'=') {
                    return Err("`!` without `=`".into());
                }
                Some("!=")
            }
            // Inside a word, `-` is part of the word.
            '-' => Some("-"),
            _ if is_word(c) => {
                let mut word = String::new();
                while let Some(c) = chars.next_if(|c| is_word(*c)) {
                    word.push(c);
                }
                tokens.push(FilterToken::Word(word));
                continue;
            }
            other => return Err(format!("unexpected `{other}`")),
        };
        chars.next();
        tokens.extend(sign.map(FilterToken::Sign));
    }
    Ok(tokens)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '-'
}

/// Reads the rest of a string literal, with the escapes of C.
fn string(chars: &mut Peekable<Chars>) -> Result<String, String> {
    let mut text = String::new();
    loop {
        match chars.next().ok_or("a string does not end")? {
            '"' => return Ok(text),
            '\\' => text.push(escaped(chars)?),
            c => text.push(c),
        }
    }
}

fn escaped(chars: &mut Peekable<Chars>) -> Result<char, String> {
    let c = chars.next().ok_or("a string does not end")?;
    let code = |digits: String, radix| {
        let code = u32::from_str_radix(&digits, radix).ok().and_then(char::from_u32);
        code.ok_or(format!("`\\{c}{digits}` is no character"))
    };
    Ok(match c {
        'n' => '\n',
        't' => '\t',
        'r' => '\r',
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'v' => '\u{b}',
        'x' => code(chars.by_ref().take(2).collect(), 16)?,
        'u' => code(chars.by_ref().take(4).collect(), 16)?,
        'U' => code(chars.by_ref().take(8).collect(), 16)?,
        '0'..='3' => code(std::iter::once(c).chain(chars.by_ref().take(2)).collect(), 8)?,
        '\\' | '"' | '\'' | '?' | '`' => c,
        other => return Err(format!("unknown escape `\\{other}`")),
    })
}

struct Parser {
    tokens: Peekable<std::vec::IntoIter<FilterToken>>,
    depth: usize,
}

impl Parser {
    /// Parses terms that are joined by one operator. Both operators together need parentheses.
    fn filter(&mut self) -> Result<AttributeFilter, String> {
        let first = self.term()?;
        let Some(operator) = self.operator() else { return Ok(first) };
        let mut terms = vec![first];
        let mut next = Some(operator.clone());
        while let Some(found) = next {
            if found != operator {
                return Err("AND and OR together need parentheses".into());
            }
            self.tokens.next();
            terms.push(self.term()?);
            next = self.operator();
        }
        Ok(if operator == "AND" {
            AttributeFilter::All(terms)
        } else {
            AttributeFilter::Any(terms)
        })
    }

    fn operator(&mut self) -> Option<String> {
        match self.tokens.peek() {
            Some(FilterToken::Word(word)) if word == "AND" || word == "OR" => Some(word.clone()),
            _ => None,
        }
    }

    fn term(&mut self) -> Result<AttributeFilter, String> {
        match self.tokens.next() {
            Some(FilterToken::Word(word)) if word == "NOT" => self.negated(),
            Some(FilterToken::Sign("-")) => self.negated(),
            Some(FilterToken::Sign("(")) => {
                let filter = self.nested(Self::filter)?;
                self.expect(")")?;
                Ok(filter)
            }
            // The sign is directly before the word, so it is part of the token.
            Some(FilterToken::Word(word)) if word == "-attributes" => {
                Ok(AttributeFilter::Not(Box::new(self.comparison()?)))
            }
            Some(FilterToken::Word(word)) if word == "-hasPrefix" => {
                Ok(AttributeFilter::Not(Box::new(self.has_prefix()?)))
            }
            Some(FilterToken::Word(word)) if word == "attributes" => self.comparison(),
            Some(FilterToken::Word(word)) if word == "hasPrefix" => self.has_prefix(),
            Some(token) => Err(format!(
                "unexpected {token:?}, where `attributes`, `hasPrefix`, `NOT` or `(` belongs"
            )),
            None => Err("the filter ends too early".into()),
        }
    }

    fn negated(&mut self) -> Result<AttributeFilter, String> {
        Ok(AttributeFilter::Not(Box::new(self.nested(Self::term)?)))
    }

    /// Parses one level deeper. The limit protects the stack.
    fn nested(
        &mut self,
        parse: impl FnOnce(&mut Self) -> Result<AttributeFilter, String>,
    ) -> Result<AttributeFilter, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("it is nested more than {MAX_DEPTH} deep"));
        }
        let filter = parse(self)?;
        self.depth -= 1;
        Ok(filter)
    }

    /// Parses the part after `attributes`.
    fn comparison(&mut self) -> Result<AttributeFilter, String> {
        match self.tokens.next() {
            Some(FilterToken::Sign(":")) => Ok(AttributeFilter::Has(self.key()?)),
            Some(FilterToken::Sign(".")) => {
                let key = self.key()?;
                match self.tokens.next() {
                    Some(FilterToken::Sign("=")) => Ok(AttributeFilter::Equals(key, self.text()?)),
                    Some(FilterToken::Sign("!=")) => Ok(AttributeFilter::Not(Box::new(
                        AttributeFilter::Equals(key, self.text()?),
                    ))),
                    other => Err(format!("unexpected {other:?}, where `=` or `!=` belongs")),
                }
            }
            other => Err(format!("unexpected {other:?}, where `:` or `.` belongs")),
        }
    }

    /// Parses the part after `hasPrefix`.
    fn has_prefix(&mut self) -> Result<AttributeFilter, String> {
        self.expect("(")?;
        match self.tokens.next() {
            Some(FilterToken::Word(word)) if word == "attributes" => {}
            other => return Err(format!("unexpected {other:?}, where `attributes` belongs")),
        }
        self.expect(".")?;
        let key = self.key()?;
        self.expect(",")?;
        let prefix = self.text()?;
        self.expect(")")?;
        Ok(AttributeFilter::HasPrefix(key, prefix))
    }

    fn key(&mut self) -> Result<String, String> {
        match self.tokens.next() {
            Some(FilterToken::Word(key) | FilterToken::Text(key)) => Ok(key),
            other => Err(format!("unexpected {other:?}, where a key belongs")),
        }
    }

    fn text(&mut self) -> Result<String, String> {
        match self.tokens.next() {
            Some(FilterToken::Text(text)) => Ok(text),
            other => Err(format!("unexpected {other:?}, where a string in quotes belongs")),
        }
    }

    fn expect(&mut self, sign: &'static str) -> Result<(), String> {
        match self.tokens.next() {
            Some(FilterToken::Sign(found)) if found == sign => Ok(()),
            other => Err(format!("unexpected {other:?}, where `{sign}` belongs")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(filter: &str, attributes: &[(&str, &str)]) -> bool {
        let attributes = attributes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        AttributeFilter::parse(filter).unwrap().unwrap().matches(&attributes.collect())
    }

    #[test]
    fn comparisons_look_at_keys_values_and_prefixes() {
        let com = [("domain", "com"), ("iana.org/lang", "en\"x")];

        for yes in [
            "attributes:domain",
            "attributes.domain = \"com\"",
            "attributes.domain!=\"org\"",
            "attributes.other != \"com\"",
            "hasPrefix(attributes.domain, \"co\")",
            r#"attributes."iana.org/lang" = "en\"x""#,
            r#"attributes:"iana.org/lang""#,
            r#"attributes.domain = "c\x6f\155""#,
        ] {
            assert!(matches(yes, &com), "{yes}");
        }
        for no in [
            "attributes:other",
            "attributes.domain = \"COM\"",
            "attributes.domain != \"com\"",
            "hasPrefix(attributes.other, \"\")",
        ] {
            assert!(!matches(no, &com), "{no}");
        }
    }

    #[test]
    fn operators_join_and_negate() {
        let both = [("a", "1"), ("b-c", "2")];

        for yes in [
            "attributes:a AND attributes:b-c",
            "attributes:x OR attributes:y OR attributes:a",
            "NOT attributes:x",
            "-attributes:x",
            "NOT (attributes:x OR attributes:y)",
            "attributes:a AND NOT hasPrefix(attributes.b-c, \"3\")",
            "(attributes:x AND attributes:y) OR attributes:a",
            "attributes:a AND -(attributes:x)",
        ] {
            assert!(matches(yes, &both), "{yes}");
        }
        assert!(!matches("attributes:a AND attributes:x", &both));
        assert!(!matches("NOT attributes:a", &both));
    }

    #[test]
    fn what_is_no_filter_is_refused_and_says_why() {
        for (wrong, why) in [
            ("attributes:a AND attributes:b OR attributes:c", "parentheses"),
            ("attributes.a = b", "string in quotes"),
            ("attributes.a", "`=` or `!=`"),
            ("data:x", "`attributes`"),
            ("attributes:a and attributes:b", "after the filter"),
            ("(attributes:a", "`)`"),
            ("attributes.a = \"b", "does not end"),
            ("hasSuffix(attributes.a, \"b\")", "`hasPrefix`"),
            (" ", "too early"),
            (&"(".repeat(200), "deep"),
            (&format!("attributes:{}", "a".repeat(250)), "256"),
        ] {
            let refused = AttributeFilter::parse(wrong).unwrap_err();
            assert!(refused.message.contains(why), "{wrong}: {refused}");
        }
        assert_eq!(AttributeFilter::parse("").unwrap(), None);
    }
}
