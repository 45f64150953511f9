//! Keeps the order of an ordering key when one of its messages has to be delivered again.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use crate::{Message, Settlement};

/// Longest wait for a message that was handed back: Pub/Sub delivers it again within 10 minutes, which
/// is the longest back-off of a retry policy and the longest deadline. Another replica may get it, so
/// the wait must end.
const MAX_ABSENCE: Duration = Duration::from_secs(11 * 60);

/// What arrives this long after it was handed back was delivered anew: not a copy that was on its way.
const REDELIVERY: Duration = Duration::from_secs(2);

/// The name of a message that has an ordering key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keyed {
    pub ordering_key: String,
    /// Empty where the transport has no ids.
    pub id: String,
    /// Its place among the messages of the lane; see [`Order::turn`].
    pub turn: u64,
}

impl Keyed {
    /// The name of a message that has this turn, if it has an ordering key.
    pub(crate) fn of(message: &Message, turn: u64) -> Option<Self> {
        let Message { ordering_key, id, .. } = message;
        (!ordering_key.is_empty()).then(|| Self {
            ordering_key: ordering_key.clone(),
            id: id.clone(),
            turn,
        })
    }
}

/// Ordering keys of which messages were handed back. Those have to come again, in their order, before
/// any other message of the key may go on.
///
/// A transport without ids sends all that follows again by itself; see
/// [`Settle::is_current`](crate::Settle::is_current).
#[derive(Debug, Default)]
pub(super) struct Order {
    keys: HashMap<String, Absent>,
    turns: u64,
}

/// The messages of one key that were handed back and have not come again.
#[derive(Debug, Default)]
struct Absent {
    by_turn: BTreeMap<u64, HandedBack>,
    turns: HashMap<String, u64>,
}

#[derive(Debug)]
struct HandedBack {
    id: String,
    since: Instant,
}

impl HandedBack {
    fn is_over(&self) -> bool {
        self.since.elapsed() >= MAX_ABSENCE
    }
}

impl Absent {
    fn first(&self) -> Option<(u64, &HandedBack)> {
        self.by_turn.first_key_value().map(|(turn, handed_back)| (*turn, handed_back))
    }

    fn insert(&mut self, id: String, turn: u64) {
        // Two copies of a message have one place: that of the first.
        let turn = self.turns.get(&id).map_or(turn, |known| turn.min(*known));
        if let Some(later) = self.turns.insert(id.clone(), turn).filter(|known| *known != turn) {
            self.by_turn.remove(&later);
        }
        let since = Instant::now();
        self.by_turn.entry(turn).or_insert(HandedBack { id, since });
    }

    fn remove_first(&mut self) {
        if let Some((_, first)) = self.by_turn.pop_first() {
            self.turns.remove(&first.id);
        }
    }

    fn forget_what_is_over(&mut self) {
        while self.first().is_some_and(|(_, first)| first.is_over()) {
            self.remove_first();
        }
    }
}

impl Order {
    /// The turn of a message that has arrived: the place among all messages of the lane at which it
    /// arrived first. One that was handed back has kept its turn.
    pub(super) fn turn(&mut self, message: &Message) -> u64 {
        if message.ordering_key.is_empty() {
            return 0;
        }
        let absent = self.keys.get(&message.ordering_key);
        let known = absent.and_then(|absent| absent.turns.get(&message.id)).copied();
        known.unwrap_or_else(|| {
            self.turns += 1;
            self.turns
        })
    }

    /// Notes messages that were handed back, and forgets what was awaited for too long.
    pub(super) fn handed_back(&mut self, messages: Vec<Keyed>) {
        self.keys.retain(|_, absent| {
            absent.forget_what_is_over();
            !absent.by_turn.is_empty()
        });
        messages.into_iter().for_each(|message| self.followed(message));
    }

    /// Notes a message that was handed back because of others, of its key or of its batch.
    pub(super) fn followed(&mut self, Keyed { ordering_key, id, turn }: Keyed) {
        if !id.is_empty() {
            self.keys.entry(ordering_key).or_default().insert(id, turn);
        }
    }

    /// Whether a message that is before this turn has to come again first.
    pub(super) fn awaits(&self, ordering_key: &str, turn: u64) -> bool {
        let mut absent = self.keys.get(ordering_key).into_iter().flat_map(|key| &key.by_turn);
        absent
            .find(|(_, handed_back)| !handed_back.is_over())
            .is_some_and(|(first, _)| *first < turn)
    }

    /// Whether this message may go on. It has come again then, and so have those before it.
    ///
    /// The first one that was handed back may. So may a later one that was delivered anew after the
    /// source must have delivered the first one: that one went elsewhere, to another replica or to the
    /// subscription's own dead letters.
    pub(super) fn admits(&mut self, message: &Message, turn: u64, settlement: &Settlement) -> bool {
        if self.keys.is_empty() || message.ordering_key.is_empty() {
            return true;
        }
        let Some(absent) = self.keys.get_mut(&message.ordering_key) else { return true };
        absent.forget_what_is_over();
        // Each delivery while the key waits uses up an attempt, where attempts are counted.
        let kept = if message.counts_attempts { Duration::ZERO } else { settlement.return_delay() };
        let may_go = match (absent.first(), absent.by_turn.get(&turn)) {
            (None, _) => true,
            (Some((first, _)), Some(_)) if first == turn => true,
            (Some((_, first)), Some(own)) => {
                settlement.arrived() > own.since.max(first.since + kept) + REDELIVERY
            }
            (Some(_), None) => false,
        };
        if may_go {
            while absent.first().is_some_and(|(first, _)| first <= turn) {
                absent.remove_first();
            }
            if absent.by_turn.is_empty() {
                self.keys.remove(&message.ordering_key);
            }
        }
        may_go
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(key: &str, id: &str) -> Message {
        let mut message = Message::new("x");
        message.ordering_key = key.into();
        message.id = id.into();
        message
    }

    fn keyed(key: &str, id: &str, turn: u64) -> Keyed {
        Keyed { ordering_key: key.into(), id: id.into(), turn }
    }

    fn arrives(order: &mut Order, message: &Message, return_delay: Duration) -> bool {
        let settlement = Settlement::new(drop, None).with_return_delay(return_delay);
        let turn = order.turn(message);
        order.admits(message, turn, &settlement)
    }

    /// Whether a message of a source that loses no nack may go on.
    fn admits(order: &mut Order, key: &str, id: &str) -> bool {
        arrives(order, &message(key, id), Duration::ZERO)
    }

    /// An order that has given turns to these messages of key "a".
    fn started(ids: &[&str]) -> Order {
        let mut order = Order::default();
        for (index, id) in (1..).zip(ids) {
            assert!(admits(&mut order, "a", id));
            assert_eq!(order.turns, index);
        }
        order
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_handed_back_comes_again_in_its_order_and_all_else_behind_it() {
        let mut order = started(&["1", "2"]);

        order.handed_back(vec![keyed("a", "1", 1), keyed("b", "7", 7), keyed("a", "2", 2)]);
        assert!(!admits(&mut order, "a", "3"));
        order.followed(keyed("a", "3", 3));

        assert!(!admits(&mut order, "a", "2"));
        assert!(!admits(&mut order, "a", "4"));
        assert!(admits(&mut order, "a", "1"));
        assert!(!admits(&mut order, "a", "3"), "the second one is still away");
        assert!(admits(&mut order, "a", "2"));
        assert!(admits(&mut order, "a", "3"));
        assert!(admits(&mut order, "a", "4"));
        assert!(!admits(&mut order, "b", "9"));
        assert!(admits(&mut order, "d", "1"));
        assert!(admits(&mut order, "", "1"));
        assert_eq!(order.keys.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_again_has_its_turn_of_before() {
        let mut order = started(&["1", "2"]);
        order.handed_back(vec![keyed("a", "1", 1), keyed("a", "2", 2)]);

        assert_eq!(order.turn(&message("a", "2")), 2);
        assert_eq!(order.turn(&message("a", "1")), 1);
        assert_eq!(order.turn(&message("a", "3")), 3);
        assert_eq!(order.turn(&message("b", "1")), 4);
        assert_eq!(order.turn(&message("", "1")), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_under_way_is_awaited_by_nothing_before_it() {
        let mut order = started(&["1", "2", "3"]);

        order.handed_back(vec![keyed("a", "2", 2)]);

        assert!(!order.awaits("a", 1) && !order.awaits("a", 2) && order.awaits("a", 3));
        assert!(!order.awaits("b", 3));
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_message_is_awaited_first() {
        let mut order = started(&["1", "2"]);

        order.handed_back(vec![keyed("a", "2", 2)]);
        order.handed_back(vec![keyed("a", "1", 1)]);

        assert!(!admits(&mut order, "a", "2"));
        assert!(admits(&mut order, "a", "1"));
        assert!(admits(&mut order, "a", "2"));
    }

    #[tokio::test(start_paused = true)]
    async fn copies_of_a_message_have_one_turn() {
        for copies in [[1, 3], [3, 1]] {
            let mut order = started(&["1", "2", "copy"]);
            order.handed_back(vec![keyed("a", "2", 2)]);

            order.handed_back(copies.map(|turn| keyed("a", "1", turn)).into());

            assert!(admits(&mut order, "a", "1"), "{copies:?}");
            assert!(admits(&mut order, "a", "2"), "{copies:?}");
            assert!(order.keys.is_empty());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_ends_when_one_that_was_handed_back_behind_it_comes_first() {
        let mut order = started(&["1", "2", "3"]);
        order.handed_back((1..=3).map(|turn| keyed("a", &turn.to_string(), turn)).collect());

        tokio::time::advance(REDELIVERY).await;
        assert!(!admits(&mut order, "a", "2"), "a copy that was on its way");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!admits(&mut order, "a", "4"));

        assert!(admits(&mut order, "a", "2"), "the first one is elsewhere");
        assert!(admits(&mut order, "a", "3"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_handed_back_later_is_on_its_way_for_longer() {
        let mut order = started(&["1", "2"]);
        order.handed_back(vec![keyed("a", "1", 1)]);
        tokio::time::advance(REDELIVERY).await;
        order.followed(keyed("a", "2", 2));

        tokio::time::advance(REDELIVERY).await;
        assert!(!admits(&mut order, "a", "2"));
        tokio::time::advance(Duration::from_millis(1)).await;

        assert!(admits(&mut order, "a", "2"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_source_may_keep_is_not_elsewhere() {
        let delay = Duration::from_secs(60);
        let mut order = started(&["1", "2"]);
        order.handed_back(vec![keyed("a", "1", 1), keyed("a", "2", 2)]);

        tokio::time::advance(delay + REDELIVERY).await;
        assert!(!arrives(&mut order, &message("a", "2"), delay));
        tokio::time::advance(Duration::from_millis(1)).await;

        assert!(arrives(&mut order, &message("a", "2"), delay));
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_that_are_counted_are_not_used_up_by_a_wait_for_what_may_be_kept() {
        let mut order = started(&["1", "2"]);
        order.handed_back(vec![keyed("a", "1", 1), keyed("a", "2", 2)]);
        let counted = Message { counts_attempts: true, ..message("a", "2") };

        tokio::time::advance(REDELIVERY + Duration::from_millis(1)).await;

        assert!(arrives(&mut order, &counted, Duration::from_secs(60)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_waited_for_room_was_not_delivered_anew() {
        let mut order = started(&["1", "2"]);
        let settlement = Settlement::new(drop, None);
        order.handed_back(vec![keyed("a", "1", 1), keyed("a", "2", 2)]);

        tokio::time::advance(REDELIVERY + Duration::from_millis(1)).await;

        assert!(!order.admits(&message("a", "2"), 2, &settlement));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_is_over_does_not_hide_a_new_one() {
        let mut order = started(&["1"]);
        order.handed_back(vec![keyed("a", "1", 1)]);

        tokio::time::advance(MAX_ABSENCE).await;
        order.followed(keyed("a", "5", 5));

        assert!(order.awaits("a", 6) && !admits(&mut order, "a", "6"));
        assert!(admits(&mut order, "a", "5"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_ends_when_another_replica_got_the_message() {
        let mut order = started(&["1"]);
        order.handed_back(vec![keyed("a", "1", 1)]);

        tokio::time::advance(MAX_ABSENCE - Duration::from_secs(1)).await;
        assert!(order.awaits("a", 2) && !admits(&mut order, "a", "2"));
        tokio::time::advance(Duration::from_secs(1)).await;

        assert!(!order.awaits("a", 2));
        assert!(admits(&mut order, "a", "2"));
        order.handed_back(vec![keyed("b", "1", 9)]);
        assert_eq!(order.keys.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn each_key_waits_until_its_own_wait_is_over() {
        let mut order = Order::default();

        order.handed_back(vec![keyed("a", "1", 1)]);
        tokio::time::advance(Duration::from_secs(1)).await;
        order.handed_back(vec![keyed("b", "1", 2)]);
        assert!(order.awaits("a", 9) && order.awaits("b", 9));
        tokio::time::advance(MAX_ABSENCE - Duration::from_secs(1)).await;
        order.handed_back(vec![keyed("c", "1", 3)]);

        assert!(!order.awaits("a", 9) && order.awaits("b", 9) && order.awaits("c", 9));
        assert_eq!(order.keys.len(), 2, "what is over is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_redelivery_of_pubsub_is_waited_for() {
        let mut order = started(&["1"]);
        order.handed_back(vec![keyed("a", "1", 1)]);

        tokio::time::advance(Duration::from_secs(10 * 60)).await;

        assert!(!admits(&mut order, "a", "2"));
        assert!(admits(&mut order, "a", "1"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_without_an_id_is_not_awaited() {
        let mut order = Order::default();

        order.handed_back(vec![keyed("a", "", 1)]);
        order.followed(keyed("b", "", 2));

        assert!(admits(&mut order, "a", "") && admits(&mut order, "b", ""));
    }
}
