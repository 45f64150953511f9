//! Targets: decoders with their corpora, dictionaries and promises.

mod attributes;
mod dead_letters;
mod messages;
mod pointers;
mod settings;
mod topics;

/// Decoder that is tested.
pub struct Target {
    /// Name on the command line.
    pub name: &'static str,
    /// Inputs that the mutations start from.
    pub corpus: &'static [&'static [u8]],
    /// Words of the format.
    pub dictionary: &'static [&'static str],
    /// Time that an input takes, as a multiple of the time with other targets.
    pub weight: u64,
    /// Decodes an input, and returns the promise that it breaks.
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
    dead_letters::ARCHIVE,
    dead_letters::DEAD_LETTER,
    settings::TARGET,
];

/// Returns an error with this text if a promise does not hold.
fn require(holds: bool, promise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(promise()) }
}

/// Splits text at the first line feed.
fn first_line(input: &str) -> (&str, &str) {
    input.split_once('\n').unwrap_or((input, ""))
}
