//! Finds the expressions whose values leave the query as they are, and those that sort by number.

use super::infer::{Shown, Types, is_bytes};
use super::lex::{Lexeme, Token};
use super::source::{closing, is_any, split};

/// Brackets that are open at a token, each with its position and the last SELECT within.
type Open = Vec<(Option<usize>, Option<usize>)>;

impl Types<'_> {
    /// Reads the SELECTs, rows of VALUES, casts and orders of the query.
    pub(super) fn read(&mut self) {
        let mut open: Open = vec![(None, None)];
        for at in 0..self.tokens.len() {
            let token = &self.tokens[at];
            if token.is_sign("(") {
                open.push((Some(at), None));
            } else if token.is_sign(")") && open.len() > 1 {
                open.pop();
            } else if token.is_word("SELECT") {
                let bracket = open.last_mut().and_then(|(bracket, select)| {
                    *select = Some(at);
                    *bracket
                });
                let keeps = bracket.is_none_or(|bracket| self.is_source(bracket));
                self.read_select(at, keeps);
            } else if token.is_word("VALUES") && at == 0 {
                self.read_rows();
            } else if token.is_word("CAST") || token.is_word("SAFE_CAST") {
                self.read_cast(at);
            } else if token.is_word("BY") && at > 0 && self.tokens[at - 1].is_word("ORDER") {
                let select = open.last().and_then(|(_, select)| *select);
                select.into_iter().for_each(|select| self.read_order(at, select));
            }
        }
    }

    /// Returns true if the query in the bracket at `open` is a source of rows. Otherwise it is a
    /// value in an expression.
    fn is_source(&self, open: usize) -> bool {
        const BEFORE: [&str; 7] = ["FROM", "JOIN", "AS", "ALL", "DISTINCT", "EXCEPT", "INTERSECT"];
        let Some(before) = open.checked_sub(1).map(|before| &self.tokens[before]) else {
            return true;
        };
        before.word().is_some_and(|word| is_any(word, &BEFORE))
            || self.whole.get(&open).is_some_and(|end| closing(self.tokens, open) == Some(end - 1))
    }

    fn read_select(&mut self, at: usize, keeps: bool) {
        for (from, to) in self.items(at) {
            let end = self.without_alias(from, to);
            if end == from + 1 {
                let shown = if to == end { Shown::Unnamed } else { Shown::Named };
                self.shown.insert(from, shown);
            }
            if keeps {
                self.mark_whole(from, end);
            }
        }
    }

    /// Reads `VALUES (...), ...`, the rows of an INSERT.
    fn read_rows(&mut self) {
        for (open, _) in split(self.tokens, 1, self.tokens.len()) {
            let close = closing(self.tokens, open).unwrap_or(open);
            for (from, to) in split(self.tokens, open + 1, close) {
                self.mark_whole(from, to);
            }
        }
    }

    /// Marks the value of a cast to an exact number or to text.
    fn read_cast(&mut self, at: usize) {
        let close = closing(self.tokens, at + 1).unwrap_or(at);
        let is_as = |at: &usize| self.tokens[*at].is_word("AS");
        let Some(word) = (at..close).rev().find(is_as) else { return };
        let kinds = ["NUMERIC", "DECIMAL", "BIGNUMERIC", "BIGDECIMAL", "STRING"];
        if self.tokens[word + 1].word().is_some_and(|kind| is_any(kind, &kinds)) {
            self.mark_whole(at + 2, word);
        }
    }

    fn mark_whole(&mut self, mut from: usize, mut to: usize) {
        self.whole.insert(from, to);
        while from < to
            && self.tokens[from].is_sign("(")
            && closing(self.tokens, from) == Some(to - 1)
        {
            (from, to) = (from + 1, to - 1);
            self.whole.insert(from, to);
        }
    }

    /// Finds the numbers in `ORDER BY 1, 2`, and the types of their columns.
    fn read_order(&mut self, by: usize, select: usize) {
        let mut depth = 0_i32;
        let ends = self.tokens.iter().enumerate().skip(by + 1).find(|(_, token)| {
            depth += i32::from(token.is_sign("(")) - i32::from(token.is_sign(")"));
            depth < 0 || depth == 0 && token.is_word("LIMIT")
        });
        let end = ends.map_or(self.tokens.len(), |(at, _)| at);
        let Some(columns) = self.scopes.outputs_at(select).map(<[_]>::to_vec) else { return };
        for (from, to) in split(self.tokens, by + 1, end) {
            let words = ["ASC", "DESC", "NULLS"];
            let is_word = |token: &Lexeme| token.word().is_some_and(|word| is_any(word, &words));
            let value = (from..to).find(|at| is_word(&self.tokens[*at])).unwrap_or(to);
            if self.of_range(from, value).is_some_and(|field| is_bytes(&field)) {
                self.refused = Some("ORDER BY of BYTES".into());
            }
            let Token::Number(number) = &self.tokens[from].token else { continue };
            let after = self.tokens.get(from + 1).and_then(Lexeme::word);
            let is_alone =
                to == from + 1 || after.is_some_and(|word| is_any(word, &["ASC", "DESC", "NULLS"]));
            let column = number.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
            let column = column.filter(|_| is_alone).and_then(|column| columns.get(column));
            if let Some(field) = column.and_then(|column| column.field.clone()) {
                if is_bytes(&field) {
                    self.refused = Some("ORDER BY of BYTES".into());
                }
                self.ordinals.insert(from, field);
            }
        }
    }
}
