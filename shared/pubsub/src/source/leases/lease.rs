//! Lease of one message, until its ack or nack is confirmed.

use std::time::Duration;

use pipeline::Disposition;
use tokio::time::Instant;

/// Lease of one message.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) ack_id: Box<str>,
    pub(super) arrived_at: Instant,
    /// Begin of the last extension that succeeded.
    pub(super) extended_at: Option<Instant>,
    pub(super) is_extending: bool,
    /// True if Pub/Sub has said that the lease has ended.
    pub(super) is_lost: bool,
    /// True if an extension began after the end of the lease. Pub/Sub may have redelivered the message.
    pub(super) was_over: bool,
    pub(super) answer: Option<Answer>,
}

/// Reply to Pub/Sub about a message. Pub/Sub knows only two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    Ack,
    Nack,
}

impl From<Disposition> for Reply {
    fn from(disposition: Disposition) -> Self {
        match disposition {
            Disposition::Ack | Disposition::DeadLettered(_) | Disposition::Dropped(_) => Self::Ack,
            Disposition::Nack => Self::Nack,
        }
    }
}

/// Ack or nack that is not confirmed yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer {
    pub(super) reply: Reply,
    pub(super) settled_at: Instant,
    pub(super) is_under_way: bool,
}

impl Lease {
    /// Returns the time when the lease ends unless it is extended.
    pub(super) fn until(&self, extension: Duration) -> Instant {
        self.extended_at.unwrap_or(self.arrived_at) + extension
    }

    pub(super) fn is_over(&self, now: Instant, extension: Duration) -> bool {
        self.is_lost || now > self.until(extension)
    }

    /// Returns the time after which the lease is no longer extended.
    pub(super) fn end(&self, max_lease: Duration) -> Instant {
        self.arrived_at + max_lease
    }

    /// Returns true if half of the lease has passed. The other half is for a second attempt.
    ///
    /// The first lease begins when Pub/Sub sends the message, which may be long before it arrives.
    /// So a message that is not settled soon is extended at once.
    pub(super) fn needs_extension(
        &self,
        now: Instant,
        extension: Duration,
        max_lease: Duration,
    ) -> bool {
        let ends_soon = self.until(extension) <= now + extension / 2;
        let may_be_short = self.extended_at.is_none() && self.answer.is_none();
        let is_nacked = self.answer.is_some_and(|answer| answer.reply == Reply::Nack);
        let is_wanted = !is_nacked && !self.is_lost && now <= self.end(max_lease);
        is_wanted && !self.is_extending && (ends_soon || may_be_short)
    }

    /// Returns true if an answer could not be sent until long after the end of the lease.
    pub(super) fn is_hopeless(&self, now: Instant, extension: Duration) -> bool {
        let last = |answer: Answer| answer.settled_at.max(self.until(extension)) + extension;
        self.answer.is_some_and(|answer| !answer.is_under_way && now > last(answer))
    }
}
