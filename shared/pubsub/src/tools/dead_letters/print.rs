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

/// Printed text that a test can read.
#[cfg(test)]
#[derive(Debug, Default)]
pub(super) struct Printed {
    pub(super) lines: Vec<String>,
    pub(super) notes: Vec<String>,
}

#[cfg(test)]
impl Printed {
    /// Returns each line as JSON.
    pub(super) fn json(&self) -> Vec<serde_json::Value> {
        self.lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[cfg(test)]
impl Print for Printed {
    fn line(&mut self, text: &dyn Display) {
        self.lines.push(text.to_string());
    }

    fn note(&mut self, text: &dyn Display) {
        self.notes.push(text.to_string());
    }
}
