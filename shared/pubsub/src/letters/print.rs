//! Output of the tool.

use std::fmt::Display;

use service::output;

/// Place that the tool prints to.
pub(super) trait Print: Send {
    /// Prints a line of the result.
    fn line(&mut self, text: &dyn Display);

    /// Prints a note beside the result.
    fn note(&mut self, text: &dyn Display);
}

/// Standard output for lines, and standard error for notes.
pub(super) struct Console;

impl Print for Console {
    fn line(&mut self, text: &dyn Display) {
        output::line(text);
    }

    fn note(&mut self, text: &dyn Display) {
        output::note(text);
    }
}
