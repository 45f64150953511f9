//! Writes functions and operators of dates and times.

use super::super::schema::FieldType;
use super::coerce::time_kind;
use super::lex::Token;
use super::operand::{end_of_operand, ends_value, is_function};
use super::source::split;
use super::write::Writer;
use crate::status::Status;

/// Names of the types of dates and times.
const KINDS: [&str; 4] = ["DATE", "DATETIME", "TIME", "TIMESTAMP"];
/// Functions whose last argument may be a time zone, with the number of arguments before it.
const ZONED: [(&str, usize); 6] = [
    ("DATE", 1),
    ("DATETIME", 1),
    ("FORMAT_TIMESTAMP", 2),
    ("TIME", 1),
    ("TIMESTAMP", 1),
    ("TIMESTAMP_TRUNC", 2),
];

impl Writer<'_> {
    /// Writes a function of times, or finds the parts in its arguments. Returns `None` if the
    /// caller has to write the function.
    pub(super) fn time_call(
        &mut self,
        name: &str,
        open: usize,
        close: usize,
    ) -> Result<Option<usize>, Status> {
        let arguments = split(self.tokens, open + 1, close);
        let kind = name.split_once('_').filter(|(kind, _)| KINDS.contains(kind));
        match kind.map(|(_, verb)| verb) {
            Some("ADD" | "SUB") => match arguments.get(1) {
                Some((from, to)) if self.tokens[*from].is_word("INTERVAL") => {
                    self.intervals.insert(*from);
                    self.part(to - 1)?;
                }
                _ => return Err(self.wrong(open, "Syntax error: Expected keyword INTERVAL")),
            },
            Some("TRUNC") => self.part_argument(arguments.get(1))?,
            Some("DIFF") => self.part_argument(arguments.get(2))?,
            _ => {}
        }
        let zoned = ZONED.iter().find(|(one, _)| *one == name);
        let Some((_, before)) = zoned.filter(|(_, before)| arguments.len() == before + 1) else {
            return Ok(None);
        };
        let (from, to) = arguments[*before];
        if self.types.of_range(from, to).is_none_or(|field| field.kind != FieldType::String) {
            return Ok(None);
        }
        self.check_zone(from, to)?;
        self.push(name, open);
        self.push("(", open);
        self.range(open + 1, from - 1)?;
        Ok(Some(self.push(")", close + 1)))
    }

    fn part_argument(&mut self, argument: Option<&(usize, usize)>) -> Result<(), Status> {
        match argument {
            Some((from, to)) if *to == from + 1 => self.part(*from),
            Some(_) => Err(Status::unimplemented("parts of dates with an argument")),
            None => Ok(()),
        }
    }

    /// Remembers that the word at `at` is a part of a date.
    fn part(&mut self, at: usize) -> Result<(), Status> {
        if self.tokens[at].word().is_none() {
            return Err(self.wrong(at, "Syntax error: Expected a part of a date"));
        }
        self.parts.insert(at);
        Ok(())
    }

    /// Checks that a time zone is UTC.
    ///
    /// # Errors
    /// Fails for any other zone.
    pub(super) fn check_zone(&self, from: usize, to: usize) -> Result<(), Status> {
        let zone = match &self.tokens[from].token {
            Token::Text(zone) => zone.as_str(),
            Token::Literal(zone, _) => zone.trim_matches('\''),
            _ => "",
        };
        if to == from + 1 && ["UTC", "Etc/UTC", "Z", "+00:00"].contains(&zone) {
            return Ok(());
        }
        Err(Status::unimplemented("time zones other than UTC"))
    }

    /// Writes `EXTRACT(part FROM value [AT TIME ZONE zone])`.
    pub(super) fn extract(&mut self, open: usize, close: usize) -> Result<usize, Status> {
        if !self.tokens[open + 2].is_word("FROM") {
            return Err(Status::unimplemented("parts of dates with an argument"));
        }
        let part = self.tokens[open + 1].word().unwrap_or_default().to_ascii_uppercase();
        let is_zone = |at: &usize| {
            let words = self.tokens.get(*at..*at + 3).unwrap_or_default().iter();
            words.zip(["AT", "TIME", "ZONE"]).filter(|(token, word)| token.is_word(word)).count()
                == 3
        };
        let zone = (open + 3..close).rev().find(is_zone);
        if let Some(at) = zone {
            self.check_zone(at + 3, close)?;
        }
        self.push(&format!("BQ_EXTRACT ('{part}',"), open);
        self.range(open + 3, zone.unwrap_or(close))?;
        Ok(self.push(")", close + 1))
    }

    /// Writes `date + days` and `date - days` from the first token on. Returns `None` for anything
    /// else.
    pub(super) fn date_arithmetic(
        &mut self,
        at: usize,
        to: usize,
    ) -> Result<Option<usize>, Status> {
        let token = &self.tokens[at];
        let follows_name = self.before(at).is_some_and(is_function);
        let may_start = match &token.token {
            Token::Name(..) | Token::Literal(..) => true,
            _ => token.is_sign("(") && !follows_name,
        };
        let Some(end) = may_start.then(|| end_of_operand(self.tokens, at)).flatten() else {
            return Ok(None);
        };
        let is_operator = |at: usize| {
            at < to && self.tokens.get(at).is_some_and(|one| one.is_sign("+") || one.is_sign("-"))
        };
        if !is_operator(end) {
            return Ok(None);
        }
        match time_kind(self.types.of_range(at, end).as_ref()) {
            None => return Ok(None),
            Some(FieldType::Date) => {}
            Some(kind) => {
                let kind = format!("{kind:?}").to_ascii_uppercase();
                return Err(Status::unimplemented(&format!("{kind} before + or -")));
            }
        }
        let (mut steps, mut last) = (Vec::new(), end);
        while is_operator(last) {
            let mut stop = self.operand(last + 1)?;
            let is_factor = |at: usize| {
                self.tokens.get(at).is_some_and(|one| one.is_sign("*") || one.is_sign("/"))
            };
            while is_factor(stop) {
                stop = self.operand(stop + 1)?;
            }
            if time_kind(self.types.of_range(last + 1, stop).as_ref()).is_some() {
                return Err(Status::unimplemented("the difference of dates as an INTERVAL"));
            }
            steps.push((last, stop));
            last = stop;
        }
        self.push(&"BQ_DAYS (".repeat(steps.len()), at);
        self.range(at, end)?;
        for (operator, stop) in steps {
            let sign = if self.tokens[operator].is_sign("-") { ", - (" } else { ", (" };
            self.push(sign, operator);
            self.range(operator + 1, stop)?;
            self.push("))", stop);
        }
        Ok(Some(last))
    }

    /// Returns true if the operator at `at` is between two values and a time follows.
    pub(super) fn adds_time(&self, at: usize) -> bool {
        let end = end_of_operand(self.tokens, at + 1);
        let right = end.and_then(|end| self.types.of_range(at + 1, end));
        self.before(at).is_some_and(ends_value) && time_kind(right.as_ref()).is_some()
    }

    /// Builds the error of a comparison of times of different types.
    pub(super) fn mismatched(
        &self,
        sign: &str,
        left: FieldType,
        right: FieldType,
        at: usize,
    ) -> Status {
        let kinds = [left, right];
        if kinds.contains(&FieldType::Date) && kinds.contains(&FieldType::Datetime) {
            return Status::unimplemented("comparisons of DATE with DATETIME");
        }
        let (left, right) = (format!("{left:?}"), format!("{right:?}"));
        let (left, right) = (left.to_ascii_uppercase(), right.to_ascii_uppercase());
        let why = "No matching signature for operator";
        self.wrong(at, &format!("{why} {sign} for argument types: {left}, {right}"))
    }
}
