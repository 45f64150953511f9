//! Steps of draining the session of a replica that is removed permanently.

use std::time::Duration;

use tokio::time::Instant;

use super::requests::Requests;
use super::window::Window;
use super::wire::Wire;
use crate::config::Mqtt;

/// Maximum wait for the last acknowledgements to be sent, and for the broker to close the
/// connection.
pub(super) const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time without activity before the broker is asked whether the session is empty.
///
/// Some brokers answer pings independently of their message queues, and need this time. For others
/// the ping alone would be enough.
const QUIET: Duration = Duration::from_secs(3);

/// Drain of the broker's session. It waits for a living replica, unsubscribes, and carries the
/// remaining messages.
///
/// At the end, it sends a ping after the last PUBACK. The session counts as empty when the answer
/// arrives before any other message. This works because brokers answer in order.
#[derive(Debug)]
pub(super) struct Drain {
    step: Step,
    filters: Vec<String>,
    active_at: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// A replica that is alive takes its session back within this time.
    Watching {
        until: Instant,
    },
    Unsubscribing,
    Quiet,
    /// The broker must answer this ping before it sends another message.
    Asked {
        ping: u64,
    },
}

impl Drain {
    pub(super) fn new(settings: &Mqtt, filters: Vec<String>) -> Self {
        let now = Instant::now();
        // A replica may be leaving a failed connection. After that it waits, and then connects.
        let until = now + LEAVE_TIMEOUT + settings.reconnect.max + settings.connect_timeout;
        Self { step: Step::Watching { until }, filters, active_at: now }
    }

    /// Returns whether the subscriptions are still unchanged.
    pub(super) fn is_untouched(&self) -> bool {
        matches!(self.step, Step::Watching { .. })
    }

    /// Records that a message arrived.
    pub(super) fn touch(&mut self) {
        self.active_at = Instant::now();
        if matches!(self.step, Step::Asked { .. }) {
            self.step = Step::Quiet;
        }
    }

    /// Returns the time of the next check, if nothing else happens before.
    pub(super) fn wake_at(&self, wire: &Wire, window: &Window) -> Option<Instant> {
        match self.step {
            Step::Watching { until } => Some(until),
            Step::Quiet if window.is_empty() => {
                Some(self.quiet_at(wire).unwrap_or_else(|| Instant::now() + QUIET))
            }
            Step::Quiet | Step::Unsubscribing | Step::Asked { .. } => None,
        }
    }

    /// Does the work that is due. Returns true when the session is empty.
    pub(super) fn advance(
        &mut self,
        wire: &mut Wire,
        requests: &mut Requests,
        window: &Window,
    ) -> Result<bool, String> {
        let now = Instant::now();
        match self.step {
            Step::Watching { until } if now >= until => {
                requests.unsubscribe(wire, &self.filters)?;
                self.step = Step::Unsubscribing;
            }
            Step::Unsubscribing if !requests.is_unsubscribing() => {
                self.active_at = now;
                self.step = Step::Quiet;
            }
            Step::Quiet if window.is_empty() => {
                if self.quiet_at(wire).is_some_and(|quiet_at| now >= quiet_at) {
                    self.step = Step::Asked { ping: wire.ping()? };
                }
            }
            Step::Asked { ping } => return Ok(wire.is_answered(ping)),
            Step::Watching { .. } | Step::Unsubscribing | Step::Quiet => {}
        }
        Ok(false)
    }

    /// Returns the time at which the connection will have been quiet long enough. Returns `None`
    /// while acknowledgements are not written.
    fn quiet_at(&self, wire: &Wire) -> Option<Instant> {
        Some(wire.all_written_at()?.max(self.active_at) + QUIET)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;
    use crate::mqtt::client::Codec;

    #[tokio::test(start_paused = true)]
    async fn a_message_that_comes_after_the_question_makes_it_be_asked_again() {
        let mut drain = Drain::new(&Mqtt::default(), Vec::new());
        drain.step = Step::Asked { ping: 0 };
        tokio::time::advance(QUIET).await;

        drain.touch();

        assert!(matches!(drain.step, Step::Quiet));
        assert_eq!(drain.active_at, Instant::now());
    }
    #[tokio::test(start_paused = true)]
    async fn it_is_not_quiet_while_acknowledgements_are_not_written() {
        let settings = Mqtt::default();
        let mut drain = Drain::new(&settings, Vec::new());
        drain.step = Step::Quiet;
        let (stream, _broker) = duplex(1);
        let mut wire = Wire::new(Box::new(stream), Codec::new(&settings), settings.keep_alive);
        wire.ping().unwrap();
        tokio::time::advance(QUIET).await;

        let (mut requests, window) = (Requests::new(settings.connect_timeout), Window::default());
        drain.advance(&mut wire, &mut requests, &window).unwrap();

        assert!(matches!(drain.step, Step::Quiet));
        assert_eq!(drain.wake_at(&wire, &window), Some(Instant::now() + QUIET));
    }
}
