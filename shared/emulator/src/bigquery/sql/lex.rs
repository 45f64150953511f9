//! Splits a query into tokens with their positions.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::super::schema::{Field, FieldType, new_field};
use super::super::sqlite::literal;
use crate::status::Status;

/// Longest query, from Google's quotas.
const MAX_BYTES: usize = 1024 * 1024;
/// Most nested brackets and CASEs. Each one needs some stack.
pub(super) const MAX_DEPTH: usize = 100;

/// A token of a query.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) enum Token {
    /// A name: words between dots. The flag marks backticks.
    Name(Vec<String>, Quoted),
    /// Content of a string literal.
    Text(String),
    /// A number as it is written.
    Number(String),
    /// A query parameter: its name (`None` for `?`) and the path of a field in it.
    Parameter(Option<String>, Vec<String>),
    /// Text in SQLite's SQL, with the field that describes its type.
    Literal(String, Field),
    /// An operator or bracket.
    Sign(String),
}

/// Tells whether a name is in backticks, and so is not a keyword.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Quoted {
    Yes,
    No,
}

/// Start of a section that must be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opener {
    Round,
    Square,
    Case,
}

/// A token with its byte offset in the query.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) struct Lexeme {
    pub token: Token,
    pub at: usize,
}

impl Lexeme {
    /// Returns true if this is the keyword, in any case.
    pub(in super::super) fn is_word(&self, word: &str) -> bool {
        self.word().is_some_and(|found| found.eq_ignore_ascii_case(word))
    }

    /// Returns the word of a name without dots and backticks.
    pub(in super::super) fn word(&self) -> Option<&str> {
        match &self.token {
            Token::Name(parts, Quoted::No) if parts.len() == 1 => Some(&parts[0]),
            _ => None,
        }
    }

    /// Returns true if this is the operator or bracket.
    pub(in super::super) fn is_sign(&self, sign: &str) -> bool {
        matches!(&self.token, Token::Sign(found) if found == sign)
    }

    /// Returns the bracket or CASE that this token opens.
    fn opened(&self) -> Option<Opener> {
        let openers = [Opener::Round, Opener::Square, Opener::Case];
        openers.into_iter().find(|opener| match opener {
            Opener::Round => self.is_sign("("),
            Opener::Square => self.is_sign("["),
            Opener::Case => self.is_word("CASE"),
        })
    }

    fn closes(&self, opener: Opener) -> bool {
        match opener {
            Opener::Round => self.is_sign(")"),
            Opener::Square => self.is_sign("]"),
            Opener::Case => self.is_word("END"),
        }
    }

    /// Returns the words of a name.
    pub(in super::super) fn parts(&self) -> Option<&[String]> {
        match &self.token {
            Token::Name(parts, _) => Some(parts),
            _ => None,
        }
    }
}

/// Builds a syntax error with Google's text, with line and column.
pub(in super::super) fn syntax(query: &str, at: usize, why: &str) -> Status {
    let before = query.get(..at).unwrap_or(query);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let mut status = Status::invalid(format!("{why} at [{line}:{column}]"));
    status.reason = Some("invalidQuery".into());
    status
}

/// Splits a query into tokens. Comments and spaces are left out.
///
/// # Errors
/// Fails for a query that is too large or nests too deeply, and for unclosed literals and names.
pub(in super::super) fn lex(query: &str) -> Result<Vec<Lexeme>, Status> {
    if query.len() > MAX_BYTES {
        return Err(Status::invalid(format!(
            "The query is too large: more than {MAX_BYTES} bytes."
        )));
    }
    let mut tokens: Vec<Lexeme> = Vec::new();
    let (mut at, mut open) = (0, Vec::new());
    while let Some(first) = query[at..].chars().next() {
        let rest = &query[at..];
        if first.is_whitespace() {
            at += first.len_utf8();
            continue;
        }
        let comment = [("--", "\n"), ("#", "\n"), ("/*", "*/")];
        if let Some((_, end)) = comment.iter().find(|(start, _)| rest.starts_with(start)) {
            at += rest.find(end).map_or(rest.len(), |found| found + end.len());
            continue;
        }
        let (token, len) = token(rest, first).map_err(|why| syntax(query, at, why))?;
        let lexeme = Lexeme { token, at };
        if let Some(opener) = lexeme.opened() {
            open.push(opener);
        } else if open.last().is_some_and(|opener| lexeme.closes(*opener)) {
            open.pop();
        }
        if open.len() > MAX_DEPTH {
            return Err(syntax(query, at, "Query is too deeply nested"));
        }
        tokens.push(lexeme);
        at += len;
    }
    Ok(tokens)
}

/// Returns the length of the prefix of a literal: `r`, `b` or both.
fn prefix(rest: &str) -> Option<usize> {
    let len = rest.find(['\'', '"'])?;
    let is_prefix = ["r", "b", "rb", "br"].iter().any(|one| rest[..len].eq_ignore_ascii_case(one));
    is_prefix.then_some(len)
}

fn token(rest: &str, first: char) -> Result<(Token, usize), &'static str> {
    if let Some(start) = prefix(rest.get(..3).unwrap_or(rest)) {
        let (prefix, literal) = rest.split_at(start);
        let quote = literal.chars().next().unwrap_or('"');
        let is_raw = prefix.contains(['r', 'R']);
        let (token, len) = if prefix.contains(['b', 'B']) {
            bytes(literal, quote, if is_raw { Escapes::Keep } else { Escapes::Bytes })?
        } else {
            text(literal, quote, Escapes::Keep)?
        };
        return Ok((token, start + len));
    }
    match first {
        '\'' | '"' => text(rest, first, Escapes::Text),
        '?' => Ok((Token::Parameter(None, Vec::new()), 1)),
        '@' if rest[1..].starts_with(is_name_start) => {
            let (Token::Name(mut parts, _), len) = name(&rest[1..])? else {
                return Err("Syntax error: Unexpected parameter");
            };
            let path = parts.split_off(1);
            Ok((Token::Parameter(parts.pop(), path), len + 1))
        }
        '`' => name(rest),
        char if is_name_start(char) => name(rest),
        '.' if rest[1..].starts_with(|c: char| c.is_ascii_digit()) => Ok(number(rest)),
        char if char.is_ascii_digit() => Ok(number(rest)),
        char => {
            let two = ["<=", ">=", "<>", "!=", "||", "<<", ">>", "=>"];
            let sign = two.iter().find(|sign| rest.starts_with(**sign));
            let len = sign.map_or(char.len_utf8(), |sign| sign.len());
            Ok((Token::Sign(rest[..len].into()), len))
        }
    }
}

fn is_name_start(char: char) -> bool {
    char.is_alphabetic() || char == '_' || char == '`'
}

fn number(rest: &str) -> (Token, usize) {
    let mut len = 0;
    let mut before = ' ';
    for char in rest.chars() {
        let is_exponent = matches!(before, 'e' | 'E') && !rest.starts_with("0x");
        if !(char.is_ascii_alphanumeric() || char == '.' || is_exponent && "+-".contains(char)) {
            break;
        }
        before = char;
        len += 1;
    }
    (Token::Number(rest[..len].into()), len)
}

/// Error of an escape sequence that does not exist.
const ILLEGAL: &str = "Syntax error: Illegal escape sequence";

/// Treatment of a backslash in a literal.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Escapes {
    Text,
    Bytes,
    /// A raw literal.
    Keep,
}

/// Reads a literal between single or triple quotes.
fn text(rest: &str, quote: char, escapes: Escapes) -> Result<(Token, usize), &'static str> {
    let (content, len) = content(rest, quote, escapes)?;
    let content = String::from_utf8(content).map_err(|_| ILLEGAL)?;
    Ok((Token::Text(content), len))
}

/// Reads a literal of BYTES, which is kept as base64.
fn bytes(rest: &str, quote: char, escapes: Escapes) -> Result<(Token, usize), &'static str> {
    let (content, len) = content(rest, quote, escapes)?;
    let field = new_field("", FieldType::Bytes);
    Ok((Token::Literal(literal(&STANDARD.encode(content)), field), len))
}

fn content(rest: &str, quote: char, escapes: Escapes) -> Result<(Vec<u8>, usize), &'static str> {
    let triple = quote.to_string().repeat(3);
    let end = if rest.starts_with(&triple) { triple } else { quote.to_string() };
    let mut content = Vec::new();
    let mut at = end.len();
    while let Some(char) = rest[at..].chars().next() {
        if rest[at..].starts_with(&end) {
            return Ok((content, at + end.len()));
        }
        let len = match (char, escapes) {
            ('\\', Escapes::Keep) => 1 + rest[at + 1..].chars().next().map_or(0, char::len_utf8),
            ('\\', Escapes::Text | Escapes::Bytes) => {
                at += escaped(&rest[at..], escapes, &mut content).ok_or(ILLEGAL)?;
                continue;
            }
            (char, _) => char.len_utf8(),
        };
        content.extend_from_slice(&rest.as_bytes()[at..at + len]);
        at += len;
    }
    Err("Syntax error: Unclosed string literal")
}

/// Reads an escape sequence, and returns its length.
fn escaped(rest: &str, escapes: Escapes, content: &mut Vec<u8>) -> Option<usize> {
    let first = rest[1..].chars().next()?;
    let (start, digits, radix) = match first {
        'x' | 'X' => (2, 2, 16),
        'u' if escapes == Escapes::Text => (2, 4, 16),
        'U' if escapes == Escapes::Text => (2, 8, 16),
        '0'..='3' => (1, 3, 8),
        _ => {
            content.push(match first {
                'a' => 7,
                'b' => 8,
                'f' => 12,
                'n' => b'\n',
                'r' => b'\r',
                't' => b'\t',
                'v' => 11,
                '\\' | '?' | '"' | '\'' | '`' => u8::try_from(first).ok()?,
                _ => return None,
            });
            return Some(2);
        }
    };
    let number = rest.get(start..start + digits)?;
    let is_number = number.chars().all(|digit| digit.is_digit(radix));
    let number = u32::from_str_radix(number, radix).ok().filter(|_| is_number)?;
    match escapes {
        Escapes::Bytes => content.push(u8::try_from(number).ok()?),
        Escapes::Text | Escapes::Keep => {
            let char = char::from_u32(number)?;
            content.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    Some(start + digits)
}

/// Reads words between dots. One section in backticks may hold several words.
fn name(rest: &str) -> Result<(Token, usize), &'static str> {
    let (mut parts, mut at, mut is_quoted) = (Vec::new(), 0, Quoted::No);
    loop {
        let here = &rest[at..];
        if let Some(quoted) = here.strip_prefix('`') {
            let end = quoted.find('`').ok_or("Syntax error: Unclosed identifier literal")?;
            parts.extend(quoted[..end].split('.').map(str::to_owned));
            is_quoted = Quoted::Yes;
            at += end + 2;
        } else {
            // A hyphen ends the word, so a project name with hyphens needs backticks.
            let is_part = |c: char| c.is_alphanumeric() || c == '_';
            let len = here.find(|c: char| !is_part(c)).unwrap_or(here.len());
            parts.push(here[..len].to_owned());
            at += len;
        }
        let goes_on = rest[at..].strip_prefix('.').is_some_and(|c| c.starts_with(is_name_start));
        if !goes_on {
            return Ok((Token::Name(parts, is_quoted), at));
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_signs_and_literals_have_their_places() {
        let query = "SELECT `a.b`.c,\n1e-3 <= @p.x -- end\n";

        let tokens = lex(query).expect("a query");

        let expected = [
            Token::Name(vec!["SELECT".into()], Quoted::No),
            Token::Name(vec!["a".into(), "b".into(), "c".into()], Quoted::Yes),
            Token::Sign(",".into()),
            Token::Number("1e-3".into()),
            Token::Sign("<=".into()),
            Token::Parameter(Some("p".into()), vec!["x".into()]),
        ];
        assert_eq!(tokens.iter().map(|one| one.token.clone()).collect::<Vec<_>>(), expected);
        let status = syntax(query, tokens[3].at, "Syntax error");
        assert_eq!(status.message, "Syntax error at [2:1]");
    }

    #[test]
    fn raw_and_triple_literals_keep_what_they_hold() {
        let tokens = lex(r#"r'\d' """a "b" c""" "\n""#).expect("a query");

        let texts: Vec<_> = tokens.into_iter().map(|one| one.token).collect();
        let expected = [r"\d", "a \"b\" c", "\n"].map(|text| Token::Text(text.into()));
        assert_eq!(texts, expected);
        let escaped = lex(r"'\u00e4\U0001F600\x41\101\a\v\?' b'\xff\101'").expect("a query");
        assert_eq!(escaped[0].token, Token::Text("ä😀AA\u{7}\u{b}?".into()));
        let bytes = Token::Literal("'/0E='".into(), new_field("", FieldType::Bytes));
        assert_eq!(escaped[1].token, bytes);
        for wrong in [r"'\d'", r"'\u12'", r"'\xg0'", r"'\ud800'", r"'\8'", r"b'\u0041'"] {
            assert!(lex(wrong).is_err(), "{wrong}");
        }
        assert!(lex("'open").is_err());
        assert!(lex(&"(".repeat(100)).is_ok());
        assert!(lex(&"(".repeat(101)).is_err());
        assert!(lex(&"CASE f([1]) END ".repeat(101)).is_ok());
        assert!(lex(&"COUNTIF(END ".repeat(101)).is_err(), "END closes no bracket");
    }
}
