//! Keeps the order of an ordering key when one of its messages must be redelivered.
//!
//! Example: messages 1, 2 and 3 have the same ordering key, and message 1 is nacked. Messages 2 and
//! 3 are then nacked too, until message 1 has arrived again. After that, message 2 is accepted,
//! then message 3.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use crate::keyed::Keyed;
use crate::{Event, Settlement};

/// Longest wait for the redelivery of a nacked message.
///
/// Pub/Sub redelivers within 10 minutes. That is both the longest back-off of a retry policy and
/// the longest acknowledgement deadline. The wait must end, because another replica may receive the
/// message.
const MAX_ABSENCE: Duration = Duration::from_secs(11 * 60);

/// A message that arrives later than this after its nack was redelivered. An earlier arrival may be
/// a copy that was already on its way.
pub(super) const REDELIVERY: Duration = Duration::from_secs(2);

/// Minimum time between two searches for waits that have ended without a redelivery.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Ordering keys with nacked messages. Those must be redelivered, in order, before any later
/// message of the key may continue.
///
/// A transport without ids resends all later messages by itself; see
/// [`Settle::is_current`](crate::Settle::is_current).
#[derive(Debug)]
pub(super) struct Order {
    keys: HashMap<String, Absent>,
    last_sequence: u64,
    swept: Instant,
}

/// Nacked messages of one key that have not arrived again.
#[derive(Debug, Default)]
struct Absent {
    by_sequence: BTreeMap<u64, Nacked>,
    sequence_by_id: HashMap<String, u64>,
}

#[derive(Debug)]
struct Nacked {
    id: String,
    /// Time of the first refusal. A copy that arrives soon after it was already on its way.
    first: Instant,
    /// Time of the last nack. The source may keep the message from then on.
    last: Instant,
}

impl Nacked {
    fn is_over(&self) -> bool {
        self.last.elapsed() >= MAX_ABSENCE
    }
}

impl Absent {
    /// Returns the sequence number of the first message that is still awaited.
    fn first(&self) -> Option<u64> {
        let mut waited_for = self.by_sequence.iter().filter(|(_, message)| !message.is_over());
        waited_for.next().map(|(sequence, _)| *sequence)
    }

    fn insert(&mut self, id: String, sequence: u64, nacked_at: Instant) {
        // Two copies of a message share one position: that of the earlier copy.
        let known = self.sequence_by_id.insert(id.clone(), sequence);
        let earlier = known.and_then(|known| self.by_sequence.remove(&known));
        let sequence = known.map_or(sequence, |known| known.min(sequence));
        self.sequence_by_id.insert(id.clone(), sequence);
        let first = earlier.map_or_else(Instant::now, |message| message.first);
        self.by_sequence.insert(sequence, Nacked { id, first, last: nacked_at });
    }

    fn remove_up_to(&mut self, sequence: u64) {
        let later = self.by_sequence.split_off(&(sequence + 1));
        for message in std::mem::replace(&mut self.by_sequence, later).into_values() {
            self.sequence_by_id.remove(&message.id);
        }
    }

    fn is_over(&self) -> bool {
        self.by_sequence.values().all(Nacked::is_over)
    }
}

impl Default for Order {
    fn default() -> Self {
        Self { keys: HashMap::new(), last_sequence: 0, swept: Instant::now() }
    }
}

impl Order {
    /// Returns the sequence number of a message whose turn it is. Later messages of the lane have
    /// higher numbers. A redelivered message keeps its number.
    pub(super) fn sequence(&mut self, event: &impl Event) -> u64 {
        if event.ordering_key().is_empty() {
            return 0;
        }
        let absent = self.keys.get(event.ordering_key());
        let known = absent.and_then(|absent| absent.sequence_by_id.get(event.id())).copied();
        known.unwrap_or_else(|| {
            self.last_sequence += 1;
            self.last_sequence
        })
    }

    /// Records a message that may not continue, and the time of its nack.
    pub(super) fn record_nack(
        &mut self,
        Keyed { ordering_key, id, sequence }: Keyed,
        nacked_at: Instant,
    ) {
        if self.swept.elapsed() >= SWEEP_INTERVAL {
            self.keys.retain(|_, absent| !absent.is_over());
            self.swept = Instant::now();
        }
        if !id.is_empty() {
            self.keys.entry(ordering_key).or_default().insert(id, sequence, nacked_at);
        }
    }

    /// Returns true while an earlier message of the key must be redelivered first.
    pub(super) fn awaits(&self, ordering_key: &str, sequence: u64) -> bool {
        let first = self.keys.get(ordering_key).and_then(Absent::first);
        first.is_some_and(|first| first < sequence)
    }

    /// Returns true if a message may continue, and false if an earlier message must be redelivered
    /// first.
    ///
    /// A message also continues if the source must have delivered all earlier ones by now. They
    /// then went elsewhere: to another replica, or to the dead-letter topic of the subscription.
    pub(super) fn admits(
        &mut self,
        event: &impl Event,
        sequence: u64,
        settlement: &Settlement,
    ) -> bool {
        let Some(absent) = self.keys.get_mut(event.ordering_key()) else { return true };
        if absent.first().is_some_and(|first| first < sequence) {
            // If deliveries are counted, each delivery while the key waits uses up an attempt. So
            // such a message does not wait for a lost nack.
            let return_delay =
                if event.counts_attempts() { Duration::ZERO } else { settlement.return_delay() };
            let before = absent.by_sequence.range(..sequence).map(|(_, message)| message.last);
            let own = absent.by_sequence.get(&sequence).map(|message| message.first);
            let returned = before.max().map(|last| last + return_delay);
            let limit = returned.into_iter().chain(own).max().map(|limit| limit + REDELIVERY);
            if limit.is_some_and(|limit| settlement.arrived() <= limit) {
                return false;
            }
        }
        absent.remove_up_to(sequence);
        if absent.by_sequence.is_empty() {
            self.keys.remove(event.ordering_key());
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use message::Message;

    const MOMENT: Duration = Duration::from_millis(1);

    fn message(key: &str, id: &str) -> Message {
        let mut message = Message::new("x");
        message.ordering_key = key.into();
        message.id = id.into();
        message
    }

    /// Creates an order that has given the sequence numbers 1, 2, .. to these messages of key "a".
    fn started(ids: &[&str]) -> Order {
        let mut order = Order::default();
        for (sequence, id) in (1..).zip(ids) {
            assert!(order.comes("a", id));
            assert_eq!(order.last_sequence, sequence);
        }
        order
    }

    impl Order {
        /// Nacks a message now.
        fn nack(&mut self, key: &str, id: &str, sequence: u64) {
            let keyed = Keyed { ordering_key: key.into(), id: id.into(), sequence };
            self.record_nack(keyed, Instant::now());
        }

        /// Delivers a message now. Returns true if it may continue.
        fn arrives(&mut self, message: &Message, return_delay: Duration) -> bool {
            let settlement = Settlement::new(drop, None).with_return_delay(return_delay);
            let sequence = self.sequence(message);
            self.admits(message, sequence, &settlement)
        }

        /// Does the same for a source that loses no nack.
        fn comes(&mut self, key: &str, id: &str) -> bool {
            self.arrives(&message(key, id), Duration::ZERO)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_nacked_comes_again_in_its_order_and_all_else_behind_it() {
        let mut order = started(&["1", "2"]);

        order.nack("b", "7", 0);
        order.nack("a", "1", 1);
        order.nack("a", "2", 2);
        assert!(!order.comes("a", "3"));
        order.nack("a", "3", 3);

        assert!(!order.comes("a", "2"));
        assert!(!order.comes("a", "4"));
        assert!(order.comes("a", "1"));
        assert!(!order.comes("a", "3"), "the second one is still away");
        assert!(order.comes("a", "2"));
        assert!(order.comes("a", "3"));
        assert!(order.comes("a", "4"));
        assert!(!order.comes("b", "9"));
        assert!(order.comes("d", "1"));
        assert!(order.comes("", "1"));
        assert_eq!(order.keys.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_again_has_its_sequence_number_of_before() {
        let mut order = started(&["1", "2"]);
        order.nack("a", "1", 1);
        order.nack("a", "2", 2);

        assert_eq!(order.sequence(&message("a", "2")), 2);
        assert_eq!(order.sequence(&message("a", "1")), 1);
        assert_eq!(order.sequence(&message("a", "3")), 3);
        assert_eq!(order.sequence(&message("b", "1")), 4);
        assert_eq!(order.sequence(&message("", "1")), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_under_way_waits_for_what_is_before_it_alone() {
        let mut order = started(&["1", "2", "3"]);

        order.nack("a", "2", 2);

        assert!(!order.awaits("a", 1) && !order.awaits("a", 2) && order.awaits("a", 3));
        assert!(!order.awaits("b", 3));
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_message_is_awaited_first() {
        let mut order = started(&["1", "2"]);

        order.nack("a", "2", 2);
        order.nack("a", "1", 1);

        assert!(!order.comes("a", "2"));
        assert!(order.comes("a", "1"));
        assert!(order.comes("a", "2"));
    }

    #[tokio::test(start_paused = true)]
    async fn copies_of_a_message_have_one_sequence_number() {
        for copies in [[1, 3], [3, 1]] {
            let mut order = started(&["1", "2", "copy"]);
            order.nack("a", "2", 2);

            copies.into_iter().for_each(|sequence| order.nack("a", "1", sequence));

            assert!(order.comes("a", "1"), "{copies:?}");
            assert!(order.comes("a", "2"), "{copies:?}");
            assert!(order.keys.is_empty());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_ends_when_a_later_message_is_delivered_anew() {
        let mut order = started(&["1", "2", "3"]);
        (1..=3).for_each(|sequence| order.nack("a", &sequence.to_string(), sequence));

        advance(REDELIVERY).await;
        assert!(!order.comes("a", "2"), "a copy that was on its way");
        assert!(!order.comes("a", "4"));
        advance(MOMENT).await;

        assert!(order.comes("a", "2"), "the first one is elsewhere");
        assert!(order.comes("a", "3"));
        assert!(order.keys.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_was_never_here_goes_on_when_all_before_it_are_elsewhere() {
        let mut order = started(&["1", "2"]);
        order.nack("a", "1", 1);
        order.nack("a", "2", 2);

        advance(REDELIVERY + MOMENT).await;

        assert!(order.comes("a", "3"));
        assert!(order.keys.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_that_was_on_its_way_does_not_come_anew() {
        let mut order = started(&["1", "2"]);
        order.nack("a", "1", 1);
        advance(REDELIVERY).await;
        order.nack("a", "2", 2);

        advance(REDELIVERY).await;
        assert!(!order.comes("a", "2"));
        advance(MOMENT).await;

        assert!(order.comes("a", "2"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_is_refused_again_and_again_goes_on_all_the_same() {
        let mut order = started(&["1", "2"]);
        order.nack("a", "1", 1);

        for _ in 0..4 {
            order.nack("a", "2", 2);
            advance(REDELIVERY / 4).await;
        }
        assert!(!order.comes("a", "2"));
        advance(MOMENT).await;

        assert!(order.comes("a", "2"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_is_nacked_again_is_waited_for_again() {
        let return_delay = Duration::from_secs(60);
        let mut order = started(&["1", "2"]);
        order.nack("a", "1", 1);
        order.nack("a", "2", 2);
        // The lease of message 1 had ended when its turn came.
        advance(return_delay).await;
        order.nack("a", "1", 1);

        advance(return_delay + REDELIVERY).await;
        assert!(!order.arrives(&message("a", "2"), return_delay));
        advance(MOMENT).await;

        assert!(order.arrives(&message("a", "2"), return_delay));
    }

    #[tokio::test(start_paused = true)]
    async fn all_that_are_before_a_message_are_waited_for() {
        let return_delay = Duration::from_secs(60);
        let mut order = started(&["1", "2", "3"]);
        order.nack("a", "1", 1);
        order.nack("a", "3", 3);
        advance(return_delay).await;
        order.nack("a", "2", 2);

        advance(REDELIVERY + MOMENT).await;
        assert!(!order.arrives(&message("a", "3"), return_delay), "the second one may be kept");
        assert!(order.arrives(&message("a", "2"), return_delay), "the first one may not");
        assert!(order.arrives(&message("a", "3"), return_delay));
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_that_are_counted_are_not_used_up_by_a_wait_for_what_may_be_kept() {
        let mut order = started(&["1", "2"]);
        order.nack("a", "1", 1);
        order.nack("a", "2", 2);
        let counted = Message { counts_attempts: true, ..message("a", "2") };

        advance(REDELIVERY + MOMENT).await;

        assert!(order.arrives(&counted, Duration::from_secs(60)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_waited_for_room_was_not_delivered_anew() {
        let mut order = started(&["1", "2"]);
        let settlement = Settlement::new(drop, None);
        order.nack("a", "1", 1);
        order.nack("a", "2", 2);

        advance(REDELIVERY + MOMENT).await;

        assert!(!order.admits(&message("a", "2"), 2, &settlement));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_is_over_does_not_hide_a_new_one() {
        let mut order = started(&["1", "2"]);
        order.nack("a", "1", 1);

        advance(MAX_ABSENCE).await;
        order.nack("a", "2", 2);

        assert!(order.awaits("a", 3) && !order.comes("a", "3"));
        assert!(order.comes("a", "2"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_for_the_same_message_begins_anew() {
        let mut order = started(&["1"]);
        order.nack("a", "1", 1);

        advance(MAX_ABSENCE).await;
        assert!(!order.awaits("a", 2));
        order.nack("a", "1", 1);

        assert!(order.awaits("a", 2) && !order.comes("a", "2"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_after_all_is_still_before_what_follows_it() {
        let mut order = started(&["1", "2"]);
        order.nack("a", "1", 1);
        advance(MAX_ABSENCE - MOMENT).await;
        order.nack("a", "2", 2);
        advance(MOMENT).await;

        assert!(order.comes("a", "1"));
        assert!(order.comes("a", "2"));
    }

    #[tokio::test(start_paused = true)]
    async fn each_key_waits_until_its_own_wait_is_over() {
        let mut order = Order::default();

        order.nack("a", "1", 1);
        advance(SWEEP_INTERVAL).await;
        order.nack("b", "1", 2);
        assert!(order.awaits("a", 9) && order.awaits("b", 9));
        advance(MAX_ABSENCE - SWEEP_INTERVAL).await;
        order.nack("c", "1", 3);

        assert!(!order.awaits("a", 9) && order.awaits("b", 9) && order.awaits("c", 9));
        assert_eq!(order.keys.len(), 2, "what is over is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_redelivery_of_pubsub_is_waited_for() {
        let longest = Duration::from_secs(10 * 60);
        let mut order = started(&["1"]);
        order.nack("a", "1", 1);

        advance(longest).await;

        assert!(!order.arrives(&message("a", "2"), longest));
        assert!(order.arrives(&message("a", "1"), longest));
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_without_an_id_is_not_awaited() {
        let mut order = Order::default();

        order.nack("a", "", 1);

        assert!(order.comes("a", ""));
    }
}
