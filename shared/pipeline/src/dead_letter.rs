//! Where messages go that can never succeed.

use std::future::Future;
use std::time::Duration;

use time::OffsetDateTime;

use crate::{Error, Message};

/// Longest `dl_detail`, in bytes.
pub const MAX_DETAIL_BYTES: usize = 1024;

/// A message that was given up, and why.
#[derive(Debug)]
pub struct Letter<'a> {
    /// The service that gave it up.
    pub service: &'static str,
    /// Stable code, such as `no_route`.
    pub reason: &'static str,
    /// What exactly was wrong, at most [`MAX_DETAIL_BYTES`] bytes.
    pub detail: String,
    /// How often this message was tried, as far as the transport tells.
    pub attempts: u32,
    /// When this process first saw the message.
    pub first_seen: OffsetDateTime,
    /// The message, byte for byte as received.
    pub message: &'a Message,
}

/// A place for dead letters.
pub trait DeadLetters: Send + Sync + 'static {
    /// Writes a letter and returns once it is durable; the same letter may come twice.
    ///
    /// The call is dropped at `time_limit`. Nothing of it may go on after that.
    ///
    /// # Errors
    /// `Stop` ends the service. Anything else writes the letter again after a back-off, for as long
    /// as the message's lease lasts.
    fn bury(
        &self,
        letter: &Letter<'_>,
        time_limit: Duration,
    ) -> impl Future<Output = Result<(), Error>> + Send;
}

/// What happens to a message that can never succeed.
#[derive(Debug, Clone)]
pub enum Policy<D> {
    /// It is written to a place of its own, and acknowledged when it is durable there.
    Bury(D),
    /// It is nacked, and left to the subscription's own dead-letter policy.
    Leave,
    /// It is acknowledged and counted: lost, as the settings ask.
    Drop,
}

impl<D> Policy<D> {
    /// The same policy with another place for the letters.
    pub fn map<E>(self, change: impl FnOnce(D) -> E) -> Policy<E> {
        match self {
            Self::Bury(letters) => Policy::Bury(change(letters)),
            Self::Leave => Policy::Leave,
            Self::Drop => Policy::Drop,
        }
    }
}

/// Cuts a text to at most `max_bytes`, between two characters.
#[must_use]
pub fn cut(mut text: String, max_bytes: usize) -> String {
    text.truncate(text.floor_char_boundary(max_bytes));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_two_characters() {
        for (max_bytes, expected) in
            [(0, ""), (1, "a"), (2, "a"), (3, "aä"), (4, "aäb"), (9, "aäb")]
        {
            assert_eq!(cut("aäb".into(), max_bytes), expected, "{max_bytes} bytes");
        }
    }
}
