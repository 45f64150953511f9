//! The destination of messages that can never succeed.

use std::future::Future;
use std::time::Duration;

use time::OffsetDateTime;

use crate::hops::Ids;
use crate::{Error, Event, Reason};
use message::Message;

/// Longest `dl_detail`, in bytes.
pub const MAX_DETAIL_BYTES: usize = 1024;

/// A message that was given up, and the reason.
#[derive(Debug)]
pub struct DeadLetter<'a, E = Message> {
    /// The service that gave it up.
    pub service: &'static str,
    /// Reason why it was given up, such as `no_route`.
    pub reason: Reason,
    /// Exact cause, at most [`MAX_DETAIL_BYTES`] bytes.
    pub detail: String,
    /// Number of deliveries of this message, as far as the transport tells.
    pub attempts: u32,
    /// Time when this process first saw the message.
    pub first_seen: OffsetDateTime,
    /// The message, as it was received.
    pub message: &'a E,
}

/// A destination for dead letters.
pub trait DeadLetters<E = Message>: Send + Sync + 'static {
    /// Writes a dead letter and returns once it is durable. The same dead letter may be written
    /// twice.
    ///
    /// The call is dropped after `time_limit`. No part of it may continue in the background after
    /// that.
    ///
    /// # Errors
    /// `Stop` ends the service. After any other error the dead letter is written again after a
    /// back-off, as long as the lease of the message lasts.
    fn write(
        &self,
        letter: &DeadLetter<'_, E>,
        time_limit: Duration,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Returns the ids of a dead letter, by which people find it.
    fn ids<'a>(&self, letter: &DeadLetter<'a, E>) -> Ids<'a>
    where
        E: Event,
    {
        letter.message.ids()
    }
}

/// Treatment of a message that can never succeed.
#[derive(Debug, Clone)]
pub enum Policy<D> {
    /// The message is written to a separate destination. Once it is durable there, the source learns
    /// that it is dead-lettered.
    Write(D),
    /// The message is nacked, and left to the dead-letter policy of the subscription.
    Leave,
    /// The message is dropped and counted. It is lost, as the settings ask, and the source learns it.
    Drop,
}

impl<D> Policy<D> {
    /// Returns the same policy with another destination.
    pub fn map<E>(self, change: impl FnOnce(D) -> E) -> Policy<E> {
        match self {
            Self::Write(letters) => Policy::Write(change(letters)),
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
