//! Finds where the operand of an operator ends.

use super::write::Writer;
use crate::status::Status;

impl Writer<'_> {
    /// Returns the end of the operand that starts at `at`.
    pub(super) fn operand(&self, mut at: usize) -> Result<usize, Status> {
        while self.tokens.get(at).is_some_and(|token| token.is_sign("-") || token.is_sign("+")) {
            at += 1;
        }
        match self.tokens.get(at) {
            None => Err(self.wrong(at - 1, "Syntax error: Unexpected end of script")),
            Some(token) if token.is_sign("(") => Ok(self.closing(at)? + 1),
            Some(token) if token.is_word("CASE") => self.end_of_case(at),
            Some(token) if token.parts().is_some() => match self.tokens.get(at + 1) {
                Some(next) if next.is_sign("(") => self.end_of_call(at),
                _ => Ok(at + 1),
            },
            Some(_) => Ok(at + 1),
        }
    }

    /// Returns the end of a call, with its window.
    fn end_of_call(&self, at: usize) -> Result<usize, Status> {
        let close = self.closing(at + 1)?;
        if !self.tokens.get(close + 1).is_some_and(|token| token.is_word("OVER")) {
            return Ok(close + 1);
        }
        let is_named = self.tokens.get(close + 2).is_some_and(|token| token.parts().is_some());
        if is_named { Ok(close + 3) } else { Ok(self.closing(close + 2)? + 1) }
    }

    fn end_of_case(&self, at: usize) -> Result<usize, Status> {
        let mut depth = 0_usize;
        for (place, token) in self.tokens.iter().enumerate().skip(at) {
            depth += usize::from(token.is_word("CASE"));
            depth -= usize::from(token.is_word("END"));
            if depth == 0 {
                return Ok(place + 1);
            }
        }
        Err(self.wrong(at, "Syntax error: Expected keyword END"))
    }
}
