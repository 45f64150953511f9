//! Standard output and standard error of the tools.
//!
//! `println!` panics when the reader has closed the pipe, as in `dead-letters list | head -3`. Here
//! a closed pipe only ends the output. The tool still finishes its work, such as publishing dead
//! letters again.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;

/// Standard output of this process.
static OUT: Output = Output::new();

/// Output that stops at its first error.
struct Output(Mutex<Option<io::Error>>);

impl Output {
    const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Writes a line, unless an earlier line could not be written.
    fn line(&self, out: &mut impl Write, text: impl Display) {
        let mut failure = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if failure.is_none() {
            *failure = writeln!(out, "{text}").err();
        }
    }

    /// Flushes buffers. Fails if a line could not be written for a reason other than a closed pipe.
    fn finish(&self, out: &mut impl Write) -> io::Result<()> {
        let failure = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        match failure.map_or_else(|| out.flush(), Err) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    }
}

/// Prints a line to standard output.
pub fn line(text: impl Display) {
    OUT.line(&mut io::stdout().lock(), text);
}

/// Prints a line to standard error. The line is lost if standard error is closed, because no other
/// place to report remains.
pub fn note(text: impl Display) {
    writeln!(io::stderr().lock(), "{text}").unwrap_or_default();
}

/// Ends standard output. A closed pipe is no error.
///
/// # Errors
/// Fails when lines could not be written, for example on a full disk.
pub fn finish() -> anyhow::Result<()> {
    OUT.finish(&mut io::stdout().lock()).context("write standard output")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writer that fails for every line.
    struct Failing(ErrorKind, usize);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            self.1 += 1;
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_has_gone_ends_the_output_quietly() {
        let (output, mut out) = (Output::new(), Failing(ErrorKind::BrokenPipe, 0));

        output.line(&mut out, "first");
        output.line(&mut out, "second");

        assert_eq!(out.1, 1, "the second is not tried");
        assert!(output.finish(&mut out).is_ok());
    }

    #[test]
    fn a_full_disk_is_a_failure() {
        let (output, mut out) = (Output::new(), Failing(ErrorKind::StorageFull, 0));

        output.line(&mut out, "first");

        assert_eq!(output.finish(&mut out).unwrap_err().kind(), ErrorKind::StorageFull);
    }

    #[test]
    fn lines_are_written_as_they_are() {
        let (output, mut out) = (Output::new(), Vec::new());

        output.line(&mut out, "first");
        output.line(&mut out, 2);

        assert!(output.finish(&mut out).is_ok());
        assert_eq!(out, b"first\n2\n");
    }
}
