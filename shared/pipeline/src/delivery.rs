//! A message together with the obligation to acknowledge or reject it.
//!
//! Every delivery is settled exactly once, with one [`Disposition`]. The obligation travels with the
//! message as a [`Settlement`]. Dropping a settlement nacks the message. So a panic or an early
//! return can duplicate a message, but never lose it.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::Reason;
use message::Message;

mod split;

/// Outcome of a delivery.
///
/// Most sources treat every outcome but the nack alike: they may forget the message. The difference
/// is for a source whose client waits for the outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// The message is safe downstream, or the transform skipped it. The source may forget it.
    Ack,
    /// The message can never succeed. Its dead letter is durable, with this reason.
    DeadLettered(Reason),
    /// The message can never succeed, and is lost, as the settings ask. It is counted under this
    /// reason.
    Dropped(Reason),
    /// The message is not safe. The source must deliver it again.
    Nack,
}

impl Disposition {
    /// Returns the worse of two outcomes: nack, then dropped, then dead-lettered. Of two that are
    /// equally bad, `self` is returned.
    #[must_use]
    pub fn worse(self, other: Self) -> Self {
        if other.severity() > self.severity() { other } else { self }
    }

    fn severity(self) -> u8 {
        match self {
            Self::Ack => 0,
            Self::DeadLettered(_) => 1,
            Self::Dropped(_) => 2,
            Self::Nack => 3,
        }
    }
}

/// The source's side of a settlement: it receives the outcome.
///
/// [`Settle::settle`] is called exactly once, from any task. It must not block.
pub trait Settle: Send {
    /// Receives the disposition.
    fn settle(self: Box<Self>, disposition: Disposition);

    /// Returns true while the source still waits for the disposition.
    ///
    /// Some sources deliver all unsettled messages again after a failure, in their old order. MQTT
    /// does so after a reconnect. Such a source returns `false` for all deliveries from before the
    /// failure. The pipeline then nacks them without further work. Otherwise an old message could
    /// overtake the new copies.
    fn is_current(&self) -> bool {
        true
    }
}

impl<F: FnOnce(Disposition) + Send> Settle for F {
    fn settle(self: Box<Self>, disposition: Disposition) {
        self(disposition);
    }
}

/// Time after which nobody waits for a disposition, in milliseconds from the arrival.
#[derive(Debug, Clone, Copy)]
enum Lease {
    /// The source waits forever.
    Endless,
    /// The source redelivers the message then.
    OfSource(u32),
    /// The client of the source gives up then.
    OfClient(u32),
}

/// The obligation to settle a message, without the message itself.
///
/// Dropping it counts as [`Disposition::Nack`].
#[must_use = "an unsettled delivery is delivered again"]
pub struct Settlement {
    settle: Option<Box<dyn Settle>>,
    arrived: Instant,
    /// Milliseconds from the arrival to the end of the lease. As a time it would take twice the
    /// memory, in each of 100,000 open messages.
    lease: Lease,
    /// In milliseconds, for the same reason.
    return_delay: u32,
    held_bytes: u32,
}

impl Settlement {
    /// Creates the settlement of a message that has just arrived. The disposition goes to `settle`.
    ///
    /// `lease_end` is the time when the source redelivers the message by itself, such as the end of
    /// an acknowledgement deadline. `None` means that it never does. The time is rounded down to
    /// milliseconds, and the maximum is 49 days from now.
    ///
    /// See [`Settlement::with_client`] for a source whose client waits.
    pub fn new(settle: impl Settle + 'static, lease_end: Option<Instant>) -> Self {
        let (settle, arrived) = (Some(Box::new(settle) as Box<dyn Settle>), Instant::now());
        let lease = lease_end.map_or(Lease::Endless, |end| {
            let millis = end.saturating_duration_since(arrived).as_millis();
            Lease::OfSource(u32::try_from(millis).unwrap_or(u32::MAX))
        });
        Self { settle, arrived, lease, return_delay: 0, held_bytes: 0 }
    }

    /// Notes that a client waits for the disposition until the end of the lease, such as that of an
    /// HTTP request. A message that is not durable is nacked before that end, from the transform on.
    /// Other messages of its batch do not suffer from it.
    ///
    /// A message may wait longer for room in a pipeline whose destination is away. So such a source
    /// also ends the wait of its client by itself, and [`Settle::is_current`] returns `false` then.
    pub fn with_client(mut self) -> Self {
        if let Lease::OfSource(millis) = self.lease {
            self.lease = Lease::OfClient(millis);
        }
        self
    }

    /// Sets the number of bytes that the settlement holds elsewhere, such as the source's own
    /// record of the message.
    pub fn with_held_bytes(mut self, held_bytes: u32) -> Self {
        self.held_bytes = held_bytes;
        self
    }

    /// Sets the longest time that the source keeps a message whose nack was lost. The default is
    /// zero.
    ///
    /// A source may redeliver later messages of the same ordering key before that time. The
    /// pipeline needs this time to keep their order. It is rounded up to milliseconds, and 49 days
    /// are the maximum.
    pub fn with_return_delay(mut self, return_delay: Duration) -> Self {
        let millis = return_delay.as_nanos().div_ceil(1_000_000);
        self.return_delay = u32::try_from(millis).unwrap_or(u32::MAX);
        self
    }

    /// Reports that the message is safe downstream.
    pub fn ack(self) {
        self.settle(Disposition::Ack);
    }

    /// Asks for another delivery. Dropping the settlement does the same.
    pub fn nack(self) {
        self.settle(Disposition::Nack);
    }

    /// Nacks a message whose record stays in its batch. After that the settlement has no effect.
    pub(crate) fn nack_early(&mut self) {
        if let Some(settle) = self.settle.take() {
            settle.settle(Disposition::Nack);
        }
    }

    /// Returns true after [`Settlement::nack_early`].
    pub(crate) fn is_settled(&self) -> bool {
        self.settle.is_none()
    }

    /// Returns true while the source still waits for the disposition; see [`Settle::is_current`].
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.settle.as_ref().is_some_and(|settle| settle.is_current())
    }

    /// Time when the source redelivers the message by itself.
    #[must_use]
    pub fn lease_end(&self) -> Option<Instant> {
        let millis = match self.lease {
            Lease::Endless => return None,
            Lease::OfSource(millis) | Lease::OfClient(millis) => millis,
        };
        Some(self.arrived + Duration::from_millis(millis.into()))
    }

    /// Returns true if a client waits for the disposition until the end of the lease.
    #[must_use]
    pub fn has_client(&self) -> bool {
        matches!(self.lease, Lease::OfClient(_))
    }

    /// Longest time that the source keeps a message whose nack was lost. It is zero for a source
    /// that loses no nack.
    #[must_use]
    pub fn return_delay(&self) -> Duration {
        Duration::from_millis(self.return_delay.into())
    }

    /// Bytes of memory that the settlement holds elsewhere.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        usize::try_from(self.held_bytes).unwrap_or(usize::MAX)
    }

    /// Time when the message arrived. The message may have waited since then for room in the
    /// pipeline.
    #[must_use]
    pub fn arrived(&self) -> Instant {
        self.arrived
    }

    /// Reports this outcome.
    pub fn settle(mut self, disposition: Disposition) {
        if let Some(settle) = self.settle.take() {
            settle.settle(disposition);
        }
    }
}

impl Drop for Settlement {
    fn drop(&mut self) {
        self.nack_early();
    }
}

impl fmt::Debug for Settlement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settlement").field("lease_end", &self.lease_end()).finish_non_exhaustive()
    }
}

/// A message together with the obligation to acknowledge or reject it.
///
/// Dropping a delivery counts as [`Disposition::Nack`].
#[derive(Debug)]
#[must_use = "an unsettled delivery is delivered again"]
pub struct Delivery<T = Message> {
    /// The delivered message.
    pub message: T,
    settlement: Settlement,
}

impl<T> Delivery<T> {
    /// Binds a message to its settlement.
    pub fn new(message: T, settlement: Settlement) -> Self {
        Self { message, settlement }
    }

    /// Reports that the message is safe downstream.
    pub fn ack(self) {
        self.settlement.ack();
    }

    /// Asks for another delivery. Dropping the delivery does the same.
    pub fn nack(self) {
        self.settlement.nack();
    }

    /// Returns true while the source still waits for the disposition; see [`Settle::is_current`].
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.settlement.is_current()
    }

    /// Replaces the message and keeps the settlement.
    pub fn replace<U>(self, message: U) -> Delivery<U> {
        Delivery { message, settlement: self.settlement }
    }

    /// Separates the message from its settlement.
    pub fn into_parts(self) -> (T, Settlement) {
        (self.message, self.settlement)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn delivery() -> (Delivery<u8>, mpsc::Receiver<Disposition>) {
        let (sender, receiver) = mpsc::channel();
        let settle = move |disposition| sender.send(disposition).unwrap();
        (Delivery::new(1, Settlement::new(settle, None)), receiver)
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_has_arrived_before() {
        let (delivery, _verdicts) = delivery();
        let arrived = Instant::now();

        tokio::time::advance(std::time::Duration::from_secs(5)).await;

        assert_eq!(delivery.into_parts().1.arrived(), arrived);
    }

    #[test]
    fn a_return_delay_is_never_shortened_below_its_maximum() {
        for (set, kept) in [
            (Duration::from_secs(70), Duration::from_secs(70)),
            (Duration::from_nanos(1), Duration::from_millis(1)),
            (Duration::MAX, Duration::from_millis(u32::MAX.into())),
        ] {
            let (delivery, _dispositions) = delivery();
            let settlement = delivery.into_parts().1.with_return_delay(set);

            assert_eq!(settlement.return_delay(), kept);
        }
    }

    /// A hundred thousand messages may be open, each with its settlement.
    #[test]
    fn a_settlement_takes_48_bytes() {
        assert_eq!(size_of::<Settlement>(), 48);
    }

    #[test]
    fn a_dropped_delivery_is_nacked() {
        let (delivery, dispositions) = delivery();

        drop(delivery);

        assert_eq!(dispositions.iter().collect::<Vec<_>>(), [Disposition::Nack]);
    }

    #[test]
    fn a_nack_is_told_once() {
        let (delivery, dispositions) = delivery();

        delivery.nack();

        assert_eq!(dispositions.iter().collect::<Vec<_>>(), [Disposition::Nack]);
    }

    #[test]
    fn a_replaced_message_keeps_its_duty_and_is_settled_once() {
        let (delivery, dispositions) = delivery();

        let delivery = delivery.replace("other");
        assert_eq!(delivery.message, "other");
        delivery.ack();

        assert_eq!(dispositions.iter().collect::<Vec<_>>(), [Disposition::Ack]);
    }

    /// A delivery of a connection that may have ended.
    struct OfConnection(bool);

    impl Settle for OfConnection {
        fn settle(self: Box<Self>, _: Disposition) {}

        fn is_current(&self) -> bool {
            self.0
        }
    }

    #[test]
    fn a_delivery_is_current_as_long_as_its_source_waits_for_the_verdict() {
        for is_current in [true, false] {
            let delivery = Delivery::new("data", Settlement::new(OfConnection(is_current), None));

            assert_eq!(delivery.is_current(), is_current);
            assert_eq!(delivery.into_parts().1.is_current(), is_current);
        }
    }

    #[test]
    fn a_panic_nacks() {
        let (delivery, dispositions) = delivery();

        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _held = delivery;
            panic!("a bug in a transform");
        }));

        assert!(panicked.is_err());
        assert_eq!(dispositions.iter().collect::<Vec<_>>(), [Disposition::Nack]);
    }
}
