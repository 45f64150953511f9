//! Tally of a run: what was sent, what was answered, and after which time.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::histogram::Histogram;

/// Most texts that are told apart.
const MAX_TEXTS: usize = 30;

/// Number of times that each text was noted.
pub(crate) type Texts = BTreeMap<Cow<'static, str>, u64>;

/// Tally of all devices.
#[derive(Debug)]
pub(crate) struct Tally(Mutex<Counts>);

/// Counts of a run.
#[derive(Debug, Clone)]
pub(crate) struct Counts {
    /// Messages that were sent at least once.
    pub sent: u64,
    /// Messages that the target has confirmed.
    pub confirmed: u64,
    /// Messages that the target has refused permanently.
    pub refused: u64,
    /// Attempts after the first one.
    pub resent: u64,
    /// Connections that were opened again.
    pub reconnects: u64,
    /// Devices without a connection, after they had one.
    pub cut_off: u64,
    /// Answers of the target: reason codes or statuses.
    pub answers: Texts,
    /// Reasons of refused messages.
    pub refusals: Texts,
    /// Reasons why connections ended.
    pub failures: Texts,
    /// Latencies from the planned time to the confirmation, in microseconds.
    pub from_plan: Histogram,
    /// Latencies from the first attempt to the confirmation, in microseconds.
    pub from_send: Histogram,
    /// Time of the last first attempt.
    pub last_sent: Option<Instant>,
}

/// Times of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Times {
    /// Planned time; the time of sending without a rate.
    pub planned: Instant,
    /// Time of the first attempt.
    pub sent: Instant,
}

impl Default for Tally {
    fn default() -> Self {
        Self(Mutex::new(Counts {
            sent: 0,
            confirmed: 0,
            refused: 0,
            resent: 0,
            reconnects: 0,
            cut_off: 0,
            answers: Texts::new(),
            refusals: Texts::new(),
            failures: Texts::new(),
            from_plan: Histogram::default(),
            from_send: Histogram::default(),
            last_sent: None,
        }))
    }
}

impl Tally {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a copy of the counts.
    pub(crate) fn snapshot(&self) -> Counts {
        self.counts().clone()
    }

    /// Returns the progress of the run.
    pub(crate) fn progress(&self) -> Progress {
        let counts = self.counts();
        let settled = counts.confirmed + counts.refused;
        Progress { sent: counts.sent, settled, cut_off: counts.cut_off }
    }

    /// Notes the first attempt to send a message.
    pub(crate) fn sent(&self, at: Instant) {
        let mut counts = self.counts();
        counts.sent += 1;
        counts.last_sent = counts.last_sent.max(Some(at));
    }

    /// Notes a further attempt.
    pub(crate) fn resent(&self) {
        self.counts().resent += 1;
    }

    /// Notes an answer that settles no message.
    pub(crate) fn answered(&self, answer: impl Into<Cow<'static, str>>) {
        note(&mut self.counts().answers, answer.into());
    }

    /// Notes that a message is confirmed.
    pub(crate) fn confirmed(&self, answer: impl Into<Cow<'static, str>>, times: Times) {
        let now = Instant::now();
        let mut counts = self.counts();
        counts.confirmed += 1;
        note(&mut counts.answers, answer.into());
        counts.from_plan.record(micros(now - times.planned));
        counts.from_send.record(micros(now - times.sent));
    }

    /// Notes that a message is refused permanently. `answer` is missing if it was not sent.
    pub(crate) fn refused(&self, answer: Option<Cow<'static, str>>, why: Cow<'static, str>) {
        let mut counts = self.counts();
        counts.refused += 1;
        if let Some(answer) = answer {
            note(&mut counts.answers, answer);
        }
        note(&mut counts.refusals, why);
    }

    /// Notes that a connection could not be opened, or that a request had no answer.
    pub(crate) fn failed(&self, why: String) {
        note(&mut self.counts().failures, why.into());
    }

    /// Notes that the connection of a device ended.
    pub(crate) fn lost(&self, why: String) {
        let mut counts = self.counts();
        counts.cut_off += 1;
        note(&mut counts.failures, why.into());
    }

    /// Notes that a device has a connection again.
    pub(crate) fn reconnected(&self) {
        let mut counts = self.counts();
        counts.reconnects += 1;
        counts.cut_off = counts.cut_off.saturating_sub(1);
    }
}

/// Progress of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Messages that were sent.
    pub sent: u64,
    /// Messages that are confirmed or refused.
    pub settled: u64,
    /// Devices without a connection, after they had one.
    pub cut_off: u64,
}

impl Counts {
    /// Returns the number of messages that were sent, and have no answer.
    pub(crate) fn unconfirmed(&self) -> u64 {
        self.sent.saturating_sub(self.confirmed + self.refused)
    }
}

fn note(texts: &mut Texts, text: Cow<'static, str>) {
    let is_known = texts.contains_key(&text) || texts.len() < MAX_TEXTS;
    *texts.entry(if is_known { text } else { "others".into() }).or_default() += 1;
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_late_message_has_both_latencies() {
        let tally = Tally::default();
        let planned = Instant::now();
        tokio::time::advance(Duration::from_secs(2)).await;
        let sent = Instant::now();
        tally.sent(sent);
        tokio::time::advance(Duration::from_millis(10)).await;

        tally.confirmed("PUBACK", Times { planned, sent });

        let counts = tally.snapshot();
        assert_eq!((counts.from_plan.max(), counts.from_send.max()), (2_010_000, 10_000));
        assert_eq!((counts.sent, counts.confirmed, counts.unconfirmed()), (1, 1, 0));
    }

    #[test]
    fn texts_are_bounded() {
        let tally = Tally::default();

        for number in 0..100 {
            tally.failed(format!("failure {number}"));
        }

        let failures = tally.snapshot().failures;
        assert_eq!(failures.len(), MAX_TEXTS + 1);
        assert_eq!(failures["others"], 100 - MAX_TEXTS as u64);
    }
}
