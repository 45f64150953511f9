//! The targets: decoders with their corpora, dictionaries and promises.

mod attributes;
mod letters;
mod messages;
mod pointers;
mod settings;
mod topics;

/// A decoder under test.
pub struct Target {
    /// Name on the command line.
    pub name: &'static str,
    /// Inputs that mutations start from.
    pub corpus: &'static [&'static [u8]],
    /// Words of the format.
    pub dictionary: &'static [&'static str],
    /// How many times as long as with the others an input takes.
    pub weight: u64,
    /// Decodes an input, and says which promise it breaks.
    pub check: fn(&[u8]) -> Result<(), String>,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    messages::ENVELOPE,
    messages::ROW,
    messages::LINE,
    attributes::TARGET,
    topics::TARGET,
    pointers::TARGET,
    letters::ARCHIVE,
    letters::DEAD_LETTER,
    settings::TARGET,
];

/// Fails with a text unless a promise holds.
fn require(holds: bool, promise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(promise()) }
}

/// Text up to the first line feed, and what follows it.
fn first_line(input: &str) -> (&str, &str) {
    input.split_once('\n').unwrap_or((input, ""))
}
