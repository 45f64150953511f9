//! Mutations of inputs.

use std::ops::Range;

use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

/// Maximum mutations of one input.
const MAX_MUTATIONS: usize = 6;
/// Maximum bytes of an input.
const MAX_BYTES: usize = 64 * 1024;
/// Numbers at the limits of types.
const NUMBERS: [&str; 22] = [
    "0",
    "-0",
    "-1",
    "1e308",
    "1e309",
    "-1e308",
    "1e-400",
    "127",
    "128",
    "255",
    "256",
    "65535",
    "65536",
    "2147483648",
    "-2147483649",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775809",
    "18446744073709551615",
    "18446744073709551616",
    "340282366920938463463374607431768211456",
];
/// Times at the limits of calendars, and texts that are almost times.
const TIMES: [&str; 12] = [
    "9999-12-31T23:59:59-01:00",
    "9999-12-31T23:59:59.999999999Z",
    "0000-01-01T00:00:00+01:00",
    "0000-01-01T00:00:00Z",
    "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00+00:01",
    "2016-12-31T23:59:60Z",
    "1970-01-01T00:00:00-23:59",
    "2025-02-29T00:00:00Z",
    "-0001-01-01T00:00:00Z",
    "10000-01-01T00:00:00Z",
    "2025-06-15T10:00:00.1234567890123Z",
];
/// Bytes with a meaning in some format.
const BYTES: &[u8] = b"{}[]\",:/\\#+*$%~.-_=&\n\r\t \0\x7f\x80\xff";

/// Makes inputs from a corpus.
pub struct Mutator<'a> {
    corpus: &'a [&'a [u8]],
    dictionary: &'a [&'a str],
    random: StdRng,
}

impl<'a> Mutator<'a> {
    /// Creates a mutator. The same generator gives the same inputs.
    #[must_use]
    pub fn new(corpus: &'a [&'a [u8]], dictionary: &'a [&'a str], random: StdRng) -> Self {
        Self { corpus, dictionary, random }
    }

    /// Returns the next input.
    pub fn next_input(&mut self) -> Vec<u8> {
        let mut input = self.corpus.choose(&mut self.random).copied().unwrap_or_default().to_vec();
        for _ in 0..self.random.random_range(1..=MAX_MUTATIONS) {
            self.mutate(&mut input);
        }
        input.truncate(MAX_BYTES);
        input
    }

    fn mutate(&mut self, input: &mut Vec<u8>) {
        let (start, end) = self.range(input.len());
        match self.random.random_range(0..11) {
            0 if start < input.len() => input[start] ^= 1 << self.random.random_range(0..8),
            1 if start < input.len() => input[start] = self.random.random(),
            2 => insert(input, start, &[self.byte()]),
            3 => drop(input.drain(start..end)),
            4 => self.repeat(input, start..end),
            5 => {
                let token = self.dictionary.choose(&mut self.random).copied().unwrap_or_default();
                replace(input, start..end.min(start + 8), token.as_bytes());
            }
            6 => self.splice(input, start),
            7 => input.truncate(start),
            8 | 9 => self.replace_run(input, start),
            _ => insert(input, start, &[self.byte(), self.byte()]),
        }
    }

    /// Chooses a part of an input, often a short one.
    fn range(&mut self, len: usize) -> (usize, usize) {
        let start = self.random.random_range(0..=len);
        let longest = if self.random.random_bool(0.8) { 12 } else { len };
        (start, self.random.random_range(start..=len.min(start + longest)))
    }

    fn byte(&mut self) -> u8 {
        BYTES.choose(&mut self.random).copied().unwrap_or(0)
    }

    /// Repeats a part many times. This makes nesting, long texts, and members with the same name.
    fn repeat(&mut self, input: &mut Vec<u8>, range: Range<usize>) {
        let times = *[1, 2, 10, 130, 1000].choose(&mut self.random).unwrap_or(&1);
        let part = input[range.clone()].to_vec().repeat(times);
        insert(input, range.end, &part[..part.len().min(MAX_BYTES)]);
    }

    /// Joins the beginning of this input with the end of another one.
    fn splice(&mut self, input: &mut Vec<u8>, at: usize) {
        let other = self.corpus.choose(&mut self.random).copied().unwrap_or_default();
        let from = self.random.random_range(0..=other.len());
        input.truncate(at);
        input.extend_from_slice(&other[from..]);
    }

    /// Replaces the next number or time by one at a limit.
    fn replace_run(&mut self, input: &mut Vec<u8>, from: usize) {
        let is_time = self.random.random_bool(0.5);
        let is_part = |byte: &u8| match is_time {
            true => byte.is_ascii_digit() || b"-:.+TZ".contains(byte),
            false => byte.is_ascii_digit(),
        };
        let run = input[from..].iter().position(u8::is_ascii_digit);
        let start = from + run.unwrap_or(0);
        let len = input[start..].iter().take_while(|byte| is_part(byte)).count();
        let edge =
            if is_time { TIMES.choose(&mut self.random) } else { NUMBERS.choose(&mut self.random) };
        replace(input, start..start + len, edge.copied().unwrap_or_default().as_bytes());
    }
}

fn insert(input: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    replace(input, at..at, bytes);
}

fn replace(input: &mut Vec<u8>, range: Range<usize>, bytes: &[u8]) {
    input.splice(range, bytes.iter().copied());
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_inputs() {
        let inputs = |seed| {
            let random = StdRng::seed_from_u64(seed);
            let mut mutator = Mutator::new(&[b"{\"a\":12}", b""], &["null"], random);
            (0..200).map(|_| mutator.next_input()).collect::<Vec<_>>()
        };

        assert_eq!(inputs(1), inputs(1));
        assert_ne!(inputs(1), inputs(2));
    }
}
