//! Decimal numbers as whole numbers of their smallest digit.

use std::fmt::{self, Write};

/// Most digits after the point.
const MAX_DIGITS: usize = 9;

/// Number of digits after the point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decimals(u32);

impl Decimals {
    /// Reads numbers, and returns them as whole numbers of the smallest digit that one of them has.
    /// Returns the first text that is no such number as an error.
    pub(super) fn read<'a>(numbers: &[&'a str]) -> Result<(Self, Vec<i64>), &'a str> {
        let digits = |text: &str| text.split_once('.').map_or(0, |(_, digits)| digits.len());
        let most = numbers.iter().map(|text| digits(text)).max().unwrap_or(0);
        let scaled = numbers.iter().map(|text| {
            let (whole, part) = text.split_once('.').unwrap_or((text, ""));
            let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
            let unsigned = whole.strip_prefix('-').unwrap_or(whole);
            let is_whole = !unsigned.is_empty() && is_number(unsigned) && is_number(part);
            if !is_whole || part.len() > MAX_DIGITS || text.ends_with('.') {
                return Err(*text);
            }
            format!("{whole}{part:0<most$}").parse::<i64>().map_err(|_| *text)
        });
        let scaled = scaled.collect::<Result<_, _>>()?;
        Ok((Self(u32::try_from(most).unwrap_or(0)), scaled))
    }

    /// Writes a number, with all its digits.
    pub(super) fn write(self, number: i64, out: &mut impl Write) -> fmt::Result {
        let digits = self.0 as usize;
        if digits == 0 {
            return write!(out, "{number}");
        }
        let unit = 10_u64.pow(self.0);
        let (sign, size) = (if number < 0 { "-" } else { "" }, number.unsigned_abs());
        write!(out, "{sign}{}.{:0digits$}", size / unit, size % unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_all_digits_of_the_longest() {
        let (decimals, scaled) = Decimals::read(&["20", "-0.5", "0.25"]).unwrap();
        let shown = scaled.iter().map(|number| {
            let mut text = String::new();
            decimals.write(*number, &mut text).unwrap();
            text
        });

        assert_eq!(scaled, [2000, -50, 25]);
        assert_eq!(shown.collect::<Vec<_>>(), ["20.00", "-0.50", "0.25"]);
    }

    #[test]
    fn a_text_that_is_no_number_is_returned() {
        for wrong in ["", "-", "1.", ".5", "1e3", "+1", "x", "0.1234567891", "99999999999999999999"]
        {
            assert_eq!(Decimals::read(&["1", wrong]), Err(wrong));
        }
    }
}
