//! Derives the types of computed columns from the query, because SQLite knows only texts and
//! numbers.

use std::collections::HashMap;

use super::super::schema::{Field, FieldType, Mode, find, kind_named, new_field};
use super::known::{RESULTS, SAME};
use super::lex::{Lexeme, Quoted, Token};
use super::operand::{COMPARISONS, ends_value};
use super::scopes::{ResolvedName, Scopes};
use super::source::{Sources, closing, is_any, split};

pub(super) fn is_bool(field: Option<&Field>) -> bool {
    field.is_some_and(|field| field.kind == FieldType::Boolean && field.mode != Mode::Repeated)
}

pub(super) fn is_bytes(field: &Field) -> bool {
    field.kind == FieldType::Bytes && field.mode != Mode::Repeated
}

/// Returns true for a NUMERIC or BIGNUMERIC.
pub(super) fn is_exact(field: Option<&Field>) -> bool {
    field.is_some_and(|field| {
        field.mode != Mode::Repeated
            && matches!(field.kind, FieldType::Numeric | FieldType::Bignumeric)
    })
}

/// Types of the names in a query.
pub(super) struct Types<'a> {
    pub(super) tokens: &'a [Lexeme],
    pub(super) sources: &'a Sources,
    pub(super) scopes: Scopes,
    /// Positions of names that are a complete item of a SELECT.
    pub(super) shown: HashMap<usize, Shown>,
    /// Expressions whose value leaves the query as it is: the end of each by its start.
    pub(super) whole: HashMap<usize, usize>,
    /// Numbers of columns in ORDER BY, with the types of the columns.
    pub(super) ordinals: HashMap<usize, Field>,
    /// Texts that are compared with times, with the types of the times.
    pub(super) times: HashMap<usize, FieldType>,
    /// Comparisons of times of different types.
    pub(super) mismatches: HashMap<usize, (FieldType, FieldType)>,
    /// First expression that is not supported.
    pub(super) refused: Option<String>,
}

/// Tells whether an item of a SELECT has an alias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    Named,
    Unnamed,
}

impl<'a> Types<'a> {
    pub(super) fn new(tokens: &'a [Lexeme], sources: &'a Sources) -> Self {
        let mut types = Self {
            tokens,
            sources,
            scopes: Scopes::default(),
            shown: HashMap::new(),
            whole: HashMap::new(),
            ordinals: HashMap::new(),
            times: HashMap::new(),
            mismatches: HashMap::new(),
            refused: None,
        };
        types.read_scopes();
        types.read();
        types.read_comparisons();
        types
    }

    /// Tells if the name at `at` is a complete item of a SELECT.
    pub(super) fn shown(&self, at: usize) -> Option<Shown> {
        self.shown.get(&at).copied()
    }

    /// Returns true if the value of this expression takes part in comparisons or arithmetic as a
    /// NUMERIC or BIGNUMERIC.
    ///
    /// Exact numbers are stored as text. As a complete item of a SELECT the text is right.
    pub(super) fn needs_number(&self, field: Option<&Field>, from: usize, to: usize) -> bool {
        is_exact(field) && self.whole.get(&from) != Some(&to)
    }

    /// Returns the type of the time that the text at `at` is compared with.
    pub(super) fn time_of(&self, at: usize) -> Option<FieldType> {
        self.times.get(&at).copied()
    }

    /// Returns the types of the times that the operator at `at` compares, if they differ.
    pub(super) fn mismatch(&self, at: usize) -> Option<&(FieldType, FieldType)> {
        self.mismatches.get(&at)
    }

    /// Returns the type of the column whose number in ORDER BY is at `at`.
    pub(super) fn ordinal(&self, at: usize) -> Option<&Field> {
        self.ordinals.get(&at)
    }

    /// Returns the types of the columns of the outermost SELECT.
    pub(super) fn columns(&self) -> super::Columns {
        if let Some(outputs) = self.scopes.outputs() {
            let before = outputs.iter().map(|column| column.field.clone()).collect();
            return super::Columns { before, after: Vec::new(), count: Some(outputs.len()) };
        }
        let mut depth = 0_i32;
        let select = self.tokens.iter().position(|token| {
            depth += i32::from(token.is_sign("(")) - i32::from(token.is_sign(")"));
            depth == 0 && token.is_word("SELECT")
        });
        let items = select.map(|at| self.items(at)).unwrap_or_default();
        let is_star = |(_, to): &(usize, usize)| self.tokens[*to - 1].is_sign("*");
        let types = |items: &[(usize, usize)]| {
            items.iter().map(|(from, to)| self.of_range(*from, *to)).collect::<Vec<_>>()
        };
        let first = items.iter().position(is_star).unwrap_or(items.len());
        let after = items.iter().rposition(is_star).map_or(items.len(), |at| at + 1);
        super::Columns {
            before: types(&items[..first]),
            after: types(&items[after..]),
            count: None,
        }
    }

    /// Returns the items of the SELECT at `at`.
    pub(super) fn items(&self, at: usize) -> Vec<(usize, usize)> {
        let mut from = at + 1;
        while self
            .tokens
            .get(from)
            .and_then(Lexeme::word)
            .is_some_and(|word| is_any(word, &["DISTINCT", "ALL"]))
        {
            from += 1;
        }
        let mut depth = 0_i32;
        let ends = self.tokens.iter().enumerate().skip(from).find(|(_, token)| {
            depth += i32::from(token.is_sign("(")) - i32::from(token.is_sign(")"));
            let ends = ["FROM", "WHERE", "LIMIT", "ORDER", "UNION", "INTERSECT"];
            depth < 0
                || token.is_sign(";")
                || depth == 0 && token.word().is_some_and(|word| is_any(word, &ends))
        });
        split(self.tokens, from, ends.map_or(self.tokens.len(), |(at, _)| at))
    }

    /// Returns true if a table has a column of this name.
    pub(super) fn has_column(&self, name: &str) -> bool {
        self.sources.used.iter().any(|(_, fields)| find(fields, name).is_some())
    }

    /// Returns the index of the part that names the column, if fields may follow it.
    pub(super) fn place_of_column(&self, parts: &[String], at: usize) -> Option<usize> {
        let Some(ResolvedName::Column(place, Some(field))) = self.scopes.resolve(parts, at) else {
            return None;
        };
        let is_record = matches!(field.kind, FieldType::Record | FieldType::Json);
        (field.mode != Mode::Repeated && is_record).then_some(place)
    }

    /// Returns the type of the name at `at`.
    pub(super) fn of_name(&self, parts: &[String], at: usize) -> Option<Field> {
        let (place, column) = match self.scopes.resolve(parts, at)? {
            ResolvedName::Column(place, column) => (place, column?),
            ResolvedName::Alias(field) => return Some(field.clone()),
        };
        let mut field = column;
        for part in &parts[place + 1..] {
            field = find(&field.fields, part)?;
        }
        Some(field.clone())
    }

    /// Returns the type of an expression, with or without an alias.
    pub(super) fn of_range(&self, from: usize, to: usize) -> Option<Field> {
        let to = self.without_alias(from, to);
        let signs =
            self.tokens.get(from..to)?.iter().take_while(|token| token.is_sign("-")).count();
        let from = from + signs;
        let tokens = self.tokens.get(from..to)?;
        match tokens {
            [] => None,
            [one] => self.of_token(one, from),
            [name, Lexeme { token: Token::Text(_), .. }] if name.word().is_some() => {
                kind_named(&name.word()?.to_ascii_uppercase()).map(|kind| new_field("", kind))
            }
            _ => self.of_operator(from, to).or_else(|| self.of_call(from, to)),
        }
    }

    pub(super) fn without_alias(&self, from: usize, to: usize) -> usize {
        const NO_ALIAS: [&str; 4] = ["END", "NULL", "TRUE", "FALSE"];
        const BEFORE: [&str; 8] = ["NOT", "IS", "AND", "OR", "LIKE", "IN", "BETWEEN", "DISTINCT"];
        if to < from + 2 || self.tokens[to - 1].parts().is_none_or(|parts| parts.len() != 1) {
            return to;
        }
        let (alias, before) = (&self.tokens[to - 1], &self.tokens[to - 2]);
        if before.is_word("AS") {
            return to - 2;
        }
        let is_value = match &before.token {
            Token::Sign(sign) => sign == ")" || sign == "]",
            _ => !before.word().is_some_and(|word| is_any(word, &BEFORE)),
        };
        let is_alias = !alias.word().is_some_and(|word| is_any(word, &NO_ALIAS));
        if is_value && is_alias { to - 1 } else { to }
    }

    fn of_token(&self, token: &Lexeme, at: usize) -> Option<Field> {
        let kind = match &token.token {
            Token::Text(_) => FieldType::String,
            Token::Number(number) if number.contains(['.', 'e', 'E']) => FieldType::Float,
            Token::Number(_) => FieldType::Integer,
            Token::Literal(_, field) => return Some(field.clone()),
            Token::Sign(_) | Token::Parameter(..) => return None,
            Token::Name(parts, quoted) => match (quoted, parts.as_slice()) {
                (Quoted::No, [word]) if is_any(word, &["TRUE", "FALSE"]) => FieldType::Boolean,
                (Quoted::No, [word]) if word.to_ascii_uppercase().starts_with("CURRENT_") => {
                    kind_named(&word.to_ascii_uppercase()[8..])?
                }
                _ => return self.of_name(parts, at),
            },
        };
        Some(new_field("", kind))
    }

    /// Returns the type of an expression with an operator outside of brackets.
    fn of_operator(&self, from: usize, to: usize) -> Option<Field> {
        let (mut depth, mut is_text, mut divides) = (0_i32, false, false);
        let (mut operands, mut start) = (Vec::new(), from);
        for at in from..to {
            let token = &self.tokens[at];
            let opens = token.is_sign("(") || token.is_sign("[") || token.is_word("CASE");
            let closes = token.is_sign(")") || token.is_sign("]") || token.is_word("END");
            depth += i32::from(opens) - i32::from(closes);
            if depth > 0 {
                continue;
            }
            let words = ["AND", "OR", "NOT", "LIKE", "IN", "BETWEEN", "IS"];
            if COMPARISONS.iter().any(|sign| token.is_sign(sign))
                || token.word().is_some_and(|word| is_any(word, &words))
            {
                return Some(new_field("", FieldType::Boolean));
            }
            is_text |= token.is_sign("||");
            divides |= token.is_sign("/");
            let computes = ["+", "-", "*", "/"].iter().any(|sign| token.is_sign(sign));
            if computes && at > start && ends_value(&self.tokens[at - 1]) {
                operands.push((start, at));
                start = at + 1;
            }
        }
        if is_text {
            return Some(new_field("", FieldType::String));
        }
        if operands.is_empty() {
            return None;
        }
        operands.push((start, to));
        self.of_arithmetic(&operands, divides)
    }

    /// Returns the type of a sum, a product or a quotient.
    fn of_arithmetic(&self, operands: &[(usize, usize)], divides: bool) -> Option<Field> {
        let mut kinds = operands.iter().map(|(from, to)| Some(self.of_range(*from, *to)?.kind));
        let all: Option<Vec<FieldType>> = kinds.by_ref().collect();
        let Some(all) = all else {
            return divides.then(|| new_field("", FieldType::Float));
        };
        let has = |kind: FieldType| all.contains(&kind);
        let is_number = all.iter().all(|kind| {
            use FieldType::{Bignumeric, Float, Integer, Numeric};
            matches!(kind, Bignumeric | Float | Integer | Numeric)
        });
        let kind = if has(FieldType::Date) && !divides {
            FieldType::Date
        } else if !is_number {
            return divides.then(|| new_field("", FieldType::Float));
        } else if has(FieldType::Float) {
            FieldType::Float
        } else if has(FieldType::Bignumeric) {
            FieldType::Bignumeric
        } else if has(FieldType::Numeric) {
            FieldType::Numeric
        } else if divides {
            FieldType::Float
        } else {
            FieldType::Integer
        };
        Some(new_field("", kind))
    }

    fn of_call(&self, from: usize, to: usize) -> Option<Field> {
        let first = &self.tokens[from];
        if first.is_word("CASE") {
            let then = (from..to).find(|at| self.tokens[*at].is_word("THEN"))?;
            let ends = ["WHEN", "ELSE", "END"];
            let end = (then..to)
                .find(|at| self.tokens[*at].word().is_some_and(|word| is_any(word, &ends)))?;
            return self.of_range(then + 1, end);
        }
        if first.is_sign("(") {
            let close = closing(self.tokens, from).filter(|close| close + 1 == to)?;
            if self.tokens[from + 1].is_word("SELECT") {
                let (from, to) = *self.items(from + 1).first()?;
                return self.of_range(from, to);
            }
            return self.of_range(from + 1, close);
        }
        if first.is_sign("[") {
            let (from, to) = *split(self.tokens, from + 1, to - 1).first()?;
            let field = self.of_range(from, to).unwrap_or_else(|| new_field("", FieldType::String));
            return Some(Field { mode: Mode::Repeated, ..field });
        }
        let name = first.word()?.to_ascii_uppercase();
        let close = closing(self.tokens, from + 1).filter(|close| *close < to)?;
        let is_whole = close + 1 == to || self.tokens[close + 1].is_word("OVER");
        if is_whole { self.of_function(&name, from + 1, close) } else { None }
    }

    fn of_function(&self, name: &str, open: usize, close: usize) -> Option<Field> {
        let arguments = split(self.tokens, open + 1, close);
        let argument =
            |at: usize| arguments.get(at).and_then(|(from, to)| self.of_range(*from, *to));
        match name {
            "CAST" | "SAFE_CAST" => {
                let at = (open..close).rev().find(|at| self.tokens[*at].is_word("AS"))?;
                let kind = kind_named(&self.tokens[at + 1].word()?.to_ascii_uppercase())?;
                return Some(new_field("", kind));
            }
            "SUM" => {
                return argument(0).filter(|field| {
                    matches!(field.kind, FieldType::Integer | FieldType::Float | FieldType::Numeric)
                });
            }
            "ARRAY_AGG" => {
                let (from, to) = *arguments.first()?;
                let from = from + usize::from(self.tokens[from].is_word("DISTINCT"));
                let ends = (from..to).find(|at| self.tokens[*at].is_word("ORDER")).unwrap_or(to);
                let item = self.of_range(from, ends);
                let item = item.unwrap_or_else(|| new_field("", FieldType::String));
                return Some(Field { mode: Mode::Repeated, ..item });
            }
            "CEIL" | "CEILING" | "FLOOR" | "ROUND" | "TRUNC" => {
                let exact = argument(0).filter(|field| is_exact(Some(field)));
                return exact.or_else(|| Some(new_field("", FieldType::Float)));
            }
            "STRUCT" => return Some(self.of_struct(&arguments)),
            "GENERATE_ARRAY" | "SPLIT" => {
                let kind = if name == "SPLIT" { FieldType::String } else { FieldType::Integer };
                return Some(Field { mode: Mode::Repeated, ..new_field("", kind) });
            }
            _ => {}
        }
        if let Some((_, at)) = SAME.iter().find(|(one, _)| *one == name) {
            return argument(*at).map(|field| Field { mode: Mode::Nullable, ..field });
        }
        let found = RESULTS.iter().find(|(_, names)| names.contains(&name));
        found.map(|(kind, _)| new_field("", *kind))
    }

    fn of_struct(&self, items: &[(usize, usize)]) -> Field {
        let fields = items.iter().enumerate().map(|(index, (from, to))| {
            let name = match self.tokens[*to - 1].parts() {
                Some(parts) => super::source::last(parts).to_owned(),
                None => format!("_field_{}", index + 1),
            };
            let field = self.of_range(*from, *to);
            Field { name, ..field.unwrap_or_else(|| new_field("", FieldType::String)) }
        });
        Field { fields: fields.collect(), ..new_field("", FieldType::Record) }
    }
}
