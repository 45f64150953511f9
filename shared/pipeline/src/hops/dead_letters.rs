//! The last dead letters of a process.

use std::collections::VecDeque;

use serde::Serialize;
use time::OffsetDateTime;

use super::{RecordText, millis};

/// Dead letters that are kept.
const KEPT: usize = 20;
/// Maximum size of the payload of one, in bytes.
pub(super) const MAX_PAYLOAD_BYTES: usize = 4 * 1024;

/// A dead letter that was written lately.
#[derive(Debug, Clone, Serialize)]
pub struct RecentDeadLetter {
    /// Name of the pipeline.
    pub stage: &'static str,
    /// Reason why the message can never succeed.
    pub reason: &'static str,
    /// Sentence about the reason.
    pub why: &'static str,
    /// Exact cause.
    pub detail: String,
    /// Time at which it was durable.
    #[serde(serialize_with = "millis")]
    pub at: OffsetDateTime,
    /// Id of the message. Empty if it is not known.
    pub ingest_id: String,
    /// Device that sent it. Empty if it is not known.
    pub device_id: String,
    /// Id of the transport.
    pub message_id: String,
    /// The message, cut to 4 KiB.
    pub record: Option<RecordText>,
}

/// Dead letters in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct RecentDeadLetters(VecDeque<RecentDeadLetter>);

impl RecentDeadLetters {
    pub(super) fn keep(&mut self, letter: RecentDeadLetter) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(letter);
    }

    /// Returns all, the newest first.
    pub(super) fn all(&self) -> Vec<RecentDeadLetter> {
        self.0.iter().rev().cloned().collect()
    }
}
