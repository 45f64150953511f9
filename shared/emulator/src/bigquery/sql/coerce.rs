//! Finds the texts that stand for times, because they are compared with times.

use super::super::schema::{Field, FieldType, Mode};
use super::infer::{Types, is_bytes};
use super::lex::{Lexeme, Token};
use super::operand::{COMPARISONS, end_of_operand, start_of_operand};
use super::source::{closing, split};

/// Functions whose arguments have one type, with the index of the first such argument.
const UNITING: [(&str, usize); 6] =
    [("COALESCE", 0), ("GREATEST", 0), ("IF", 1), ("IFNULL", 0), ("LEAST", 0), ("NULLIF", 0)];

/// Returns the type of a field if it is a date or time.
pub(super) fn time_kind(field: Option<&Field>) -> Option<FieldType> {
    let field = field.filter(|field| field.mode != Mode::Repeated)?;
    let kinds = [FieldType::Timestamp, FieldType::Date, FieldType::Datetime, FieldType::Time];
    kinds.contains(&field.kind).then_some(field.kind)
}

impl Types<'_> {
    /// Reads all comparisons of the query.
    pub(super) fn read_comparisons(&mut self) {
        for at in 0..self.tokens.len() {
            let token = &self.tokens[at];
            let ranges = if COMPARISONS.iter().any(|sign| token.is_sign(sign)) {
                self.of_comparison(at)
            } else if token.is_word("BETWEEN") {
                self.of_between(at)
            } else if token.is_word("IN") {
                self.of_in(at)
            } else {
                self.of_uniting(at)
            };
            self.unite(&ranges.unwrap_or_default());
            self.check_bytes(at);
        }
    }

    /// Refuses operators on BYTES, which are stored as base64: only their equality is right.
    fn check_bytes(&mut self, at: usize) {
        let token = &self.tokens[at];
        let is_operator = ["<", ">", "<=", ">=", "||"].iter().any(|sign| token.is_sign(sign))
            || token.is_word("LIKE")
            || token.is_word("BETWEEN");
        if !is_operator || self.refused.is_some() {
            return;
        }
        let left = self.before_word(at);
        let right = end_of_operand(self.tokens, at + 1).map(|end| (at + 1, end));
        let mut kinds = left.into_iter().chain(right);
        if kinds.any(|(from, to)| self.of_range(from, to).is_some_and(|field| is_bytes(&field))) {
            self.refused = Some("operators on BYTES other than = and !=".into());
        }
    }

    fn of_comparison(&mut self, at: usize) -> Option<Vec<(usize, usize)>> {
        let left = (start_of_operand(self.tokens, at)?, at);
        let right = (at + 1, end_of_operand(self.tokens, at + 1)?);
        let kind = |range: (usize, usize)| time_kind(self.of_range(range.0, range.1).as_ref());
        if let (Some(left), Some(right)) = (kind(left), kind(right))
            && left != right
        {
            self.mismatches.insert(at, (left, right));
        }
        Some(vec![left, right])
    }

    /// Returns the value and the ends of `value [NOT] BETWEEN low AND high`.
    fn of_between(&self, at: usize) -> Option<Vec<(usize, usize)>> {
        let mut depth = 0_i32;
        let and = self.tokens.iter().enumerate().skip(at + 1).find(|(_, token)| {
            depth += i32::from(token.is_sign("(")) - i32::from(token.is_sign(")"));
            depth < 0 || depth == 0 && token.is_word("AND")
        });
        let (and, _) = and.filter(|_| depth == 0)?;
        let high = (and + 1, end_of_operand(self.tokens, and + 1)?);
        Some(vec![self.before_word(at)?, (at + 1, and), high])
    }

    /// Returns the value and the items of `value [NOT] IN (item, ...)`.
    fn of_in(&self, at: usize) -> Option<Vec<(usize, usize)>> {
        let open = self.tokens.get(at + 1).filter(|open| open.is_sign("("));
        let is_query = self.tokens.get(at + 2).is_some_and(|token| token.is_word("SELECT"));
        open.filter(|_| !is_query)?;
        let close = closing(self.tokens, at + 1)?;
        let mut ranges = vec![self.before_word(at)?];
        ranges.extend(split(self.tokens, at + 2, close));
        Some(ranges)
    }

    fn of_uniting(&self, at: usize) -> Option<Vec<(usize, usize)>> {
        let name = self.tokens[at].word()?;
        let (_, first) = UNITING.iter().find(|(one, _)| one.eq_ignore_ascii_case(name))?;
        let close = self.tokens.get(at + 1).filter(|open| open.is_sign("("));
        let close = close.and_then(|_| closing(self.tokens, at + 1))?;
        Some(split(self.tokens, at + 2, close).into_iter().skip(*first).collect())
    }

    /// Returns the operand before `[NOT]` and the word at `at`.
    fn before_word(&self, at: usize) -> Option<(usize, usize)> {
        let is_not = at.checked_sub(1).is_some_and(|not| self.tokens[not].is_word("NOT"));
        let end = at - usize::from(is_not);
        Some((start_of_operand(self.tokens, end)?, end))
    }

    /// Gives the texts among these expressions the type of the others, if that is a time.
    fn unite(&mut self, ranges: &[(usize, usize)]) {
        let mut kinds = ranges.iter();
        let kind = kinds.find_map(|(from, to)| time_kind(self.of_range(*from, *to).as_ref()));
        let Some(kind) = kind else { return };
        for (from, to) in ranges {
            if *to == from + 1 && is_text(&self.tokens[*from]) {
                self.times.insert(*from, kind);
            }
        }
    }
}

/// Returns true for a text literal, and for the value of a STRING parameter.
fn is_text(token: &Lexeme) -> bool {
    match &token.token {
        Token::Text(_) => true,
        Token::Literal(_, field) => field.kind == FieldType::String && field.mode != Mode::Repeated,
        _ => false,
    }
}
