//! Finds where the operand of an operator begins and ends.

use super::super::schema::kind_named;
use super::known::KEYWORDS;
use super::lex::{Lexeme, MAX_DEPTH, Token};
use super::source::{closing, is_any};

/// Operators that compare two values.
pub(super) const COMPARISONS: [&str; 7] = ["=", "<", ">", "<=", ">=", "!=", "<>"];

/// Returns true for a keyword, which is not the name of a column or function.
fn is_keyword(token: &Lexeme) -> bool {
    token.word().is_some_and(|word| is_any(word, &KEYWORDS))
}

/// Returns true for a name before a bracket that is a function.
pub(super) fn is_function(token: &Lexeme) -> bool {
    token.parts().is_some() && !is_keyword(token)
}

/// Returns true if a value may end with this token.
pub(super) fn ends_value(token: &Lexeme) -> bool {
    match &token.token {
        Token::Sign(sign) => sign == ")" || sign == "]",
        Token::Name(..) => {
            token.word().is_some_and(|word| is_any(word, &["END", "NULL", "TRUE", "FALSE"]))
                || !is_keyword(token)
        }
        Token::Text(_) | Token::Number(_) | Token::Parameter(..) | Token::Literal(..) => true,
    }
}

/// Returns true for the name of a type before a text, as in `DATE '2025-09-28'`.
fn is_typed(tokens: &[Lexeme], at: usize) -> bool {
    let kind = tokens.get(at).and_then(Lexeme::word);
    kind.is_some_and(|word| kind_named(&word.to_ascii_uppercase()).is_some())
        && tokens.get(at + 1).is_some_and(|next| matches!(next.token, Token::Text(_)))
}

/// Returns the end of the operand that starts at `at`.
pub(super) fn end_of_operand(tokens: &[Lexeme], mut at: usize) -> Option<usize> {
    while tokens.get(at).is_some_and(|token| token.is_sign("-") || token.is_sign("+")) {
        at += 1;
    }
    let token = tokens.get(at)?;
    if token.is_sign("(") || token.is_sign("[") {
        return Some(closing(tokens, at)? + 1);
    }
    if token.is_word("CASE") {
        return end_of_case(tokens, at);
    }
    if is_typed(tokens, at) {
        return Some(at + 2);
    }
    match tokens.get(at + 1) {
        Some(next) if next.is_sign("(") && token.parts().is_some() => end_of_call(tokens, at),
        _ => Some(at + 1),
    }
}

/// Returns the end of a call, with its window.
fn end_of_call(tokens: &[Lexeme], at: usize) -> Option<usize> {
    let close = closing(tokens, at + 1)?;
    if !tokens.get(close + 1).is_some_and(|token| token.is_word("OVER")) {
        return Some(close + 1);
    }
    let is_named = tokens.get(close + 2).is_some_and(|token| token.parts().is_some());
    if is_named { Some(close + 3) } else { Some(closing(tokens, close + 2)? + 1) }
}

fn end_of_case(tokens: &[Lexeme], at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (place, token) in tokens.iter().enumerate().skip(at) {
        depth += usize::from(token.is_word("CASE"));
        depth -= usize::from(token.is_word("END"));
        if depth == 0 {
            return Some(place + 1);
        }
    }
    None
}

/// Returns the start of the operand that ends before `end`.
pub(super) fn start_of_operand(tokens: &[Lexeme], end: usize) -> Option<usize> {
    let last = end.checked_sub(1)?;
    let token = &tokens[last];
    if token.is_sign(")") || token.is_sign("]") {
        let open = opening(tokens, last)?;
        let Some(before) = open.checked_sub(1) else { return Some(open) };
        if tokens[before].is_word("OVER") && tokens[open].is_sign("(") {
            return start_of_operand(tokens, before);
        }
        return Some(if is_function(&tokens[before]) { before } else { open });
    }
    if token.is_word("END") {
        return start_of_case(tokens, last);
    }
    if last > 0 && is_typed(tokens, last - 1) {
        return Some(last - 1);
    }
    ends_value(token).then_some(last)
}

/// Returns the position of the bracket that is closed at `close`.
fn opening(tokens: &[Lexeme], close: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for at in (0..=close).rev() {
        depth += usize::from(tokens[at].is_sign(")") || tokens[at].is_sign("]"));
        depth -= usize::from(tokens[at].is_sign("(") || tokens[at].is_sign("["));
        match depth {
            0 => return Some(at),
            // So many brackets have no opening one.
            depth if depth > MAX_DEPTH => return None,
            _ => {}
        }
    }
    None
}

fn start_of_case(tokens: &[Lexeme], end: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for at in (0..=end).rev() {
        depth += usize::from(tokens[at].is_word("END"));
        depth -= usize::from(tokens[at].is_word("CASE"));
        match depth {
            0 => return Some(at),
            depth if depth > MAX_DEPTH => return None,
            _ => {}
        }
    }
    None
}
