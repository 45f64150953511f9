//! Keeps the order of an ordering key when one of its messages has to be delivered again.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use tokio::time::Instant;

use crate::Message;

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
}

impl Keyed {
    /// The name of a message, if it has an ordering key.
    pub(crate) fn of(message: &Message) -> Option<Self> {
        (!message.ordering_key.is_empty())
            .then(|| Self { ordering_key: message.ordering_key.clone(), id: message.id.clone() })
    }
}

/// Ordering keys whose messages are handed back, because an earlier one has to come again first.
///
/// A transport without ids sends all that follows again by itself; see
/// [`Settle::is_current`](crate::Settle::is_current).
#[derive(Debug, Default)]
pub(super) struct Order(HashMap<String, Awaited>);

#[derive(Debug)]
struct Awaited {
    id: String,
    since: Instant,
    /// Messages behind it that were handed back too, and when first. When one of these is delivered anew
    /// before the awaited one, that one went elsewhere: to another replica, or to the subscription's own
    /// dead letters.
    followed: HashMap<String, Instant>,
}

impl Awaited {
    fn new(id: String) -> Self {
        Self { id, since: Instant::now(), followed: HashMap::new() }
    }

    fn is_over(&self) -> bool {
        self.since.elapsed() >= MAX_ABSENCE
    }
}

impl Order {
    /// Notes messages that were handed back, in their order. The first one of each key is awaited.
    pub(super) fn handed_back(&mut self, messages: Vec<Keyed>) {
        self.0.retain(|_, awaited| !awaited.is_over());
        // Backwards, so that the first one of a key stays.
        for Keyed { ordering_key, id } in messages.into_iter().rev() {
            if !id.is_empty() {
                self.0.insert(ordering_key, Awaited::new(id));
            }
        }
    }

    /// Notes a message that was handed back because of earlier ones, of its key or of its batch.
    pub(super) fn followed(&mut self, Keyed { ordering_key, id }: Keyed) {
        if id.is_empty() {
            return;
        }
        match self.0.entry(ordering_key) {
            Entry::Occupied(mut awaited) if awaited.get().is_over() => {
                awaited.insert(Awaited::new(id));
            }
            Entry::Occupied(mut awaited) => {
                awaited.get_mut().followed.entry(id).or_insert_with(Instant::now);
            }
            Entry::Vacant(vacant) => drop(vacant.insert(Awaited::new(id))),
        }
    }

    /// Whether an earlier message of this key has to come again first.
    pub(super) fn awaits(&self, ordering_key: &str) -> bool {
        self.0.get(ordering_key).is_some_and(|awaited| !awaited.is_over())
    }

    /// Whether this message may go on, which arrived at this time; the awaited one may, and ends the
    /// wait.
    pub(super) fn admits(&mut self, message: &Message, arrived: Instant) -> bool {
        if self.0.is_empty() || message.ordering_key.is_empty() {
            return true;
        }
        let Entry::Occupied(entry) = self.0.entry(message.ordering_key.clone()) else {
            return true;
        };
        let awaited = entry.get();
        let is_anew = |since: &Instant| arrived > *since + REDELIVERY;
        let may_go = awaited.id == message.id
            || awaited.followed.get(&message.id).is_some_and(is_anew)
            || awaited.is_over();
        if may_go {
            entry.remove();
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

    fn admits(order: &mut Order, message: &Message) -> bool {
        order.admits(message, Instant::now())
    }

    fn keyed(key: &str, id: &str) -> Keyed {
        Keyed { ordering_key: key.into(), id: id.into() }
    }

    #[tokio::test(start_paused = true)]
    async fn what_follows_waits_until_the_first_one_came_again() {
        let mut order = Order::default();

        order.handed_back(vec![keyed("a", "1"), keyed("b", "7"), keyed("a", "2")]);
        order.followed(keyed("a", "3"));
        order.followed(keyed("c", "8"));

        assert!(!admits(&mut order, &message("a", "2")));
        assert!(!admits(&mut order, &message("a", "4")));
        assert!(order.awaits("a") && order.awaits("c"));
        assert!(admits(&mut order, &message("a", "1")));
        assert!(admits(&mut order, &message("a", "2")));
        assert!(!admits(&mut order, &message("c", "9")));
        assert!(admits(&mut order, &message("d", "1")));
        assert!(admits(&mut order, &message("", "1")));
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_message_is_awaited_instead() {
        let mut order = Order::default();

        order.handed_back(vec![keyed("a", "2")]);
        order.handed_back(vec![keyed("a", "1")]);

        assert!(!admits(&mut order, &message("a", "2")));
        assert!(admits(&mut order, &message("a", "1")));
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_ends_when_one_that_was_handed_back_behind_it_comes_first() {
        let mut order = Order::default();

        order.handed_back(vec![keyed("a", "1")]);
        order.followed(keyed("a", "2"));
        order.followed(keyed("a", "3"));

        assert!(!admits(&mut order, &message("a", "2")), "a copy that was on its way");
        tokio::time::advance(REDELIVERY + Duration::from_millis(1)).await;
        assert!(!admits(&mut order, &message("a", "4")));
        assert!(admits(&mut order, &message("a", "2")), "the first one is elsewhere");
        assert!(admits(&mut order, &message("a", "3")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_is_over_does_not_hide_a_new_one() {
        let mut order = Order::default();
        order.handed_back(vec![keyed("a", "1")]);

        tokio::time::advance(MAX_ABSENCE).await;
        order.followed(keyed("a", "5"));

        assert!(order.awaits("a") && !admits(&mut order, &message("a", "6")));
        assert!(admits(&mut order, &message("a", "5")));
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_ends_when_another_replica_got_the_message() {
        let mut order = Order::default();
        order.handed_back(vec![keyed("a", "1")]);

        tokio::time::advance(MAX_ABSENCE - Duration::from_secs(1)).await;
        assert!(order.awaits("a") && !admits(&mut order, &message("a", "2")));
        tokio::time::advance(Duration::from_secs(1)).await;

        assert!(!order.awaits("a"));
        assert!(admits(&mut order, &message("a", "2")));
        order.handed_back(vec![keyed("b", "1")]);
        assert_eq!(order.0.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn each_key_waits_until_its_own_wait_is_over() {
        let mut order = Order::default();

        order.handed_back(vec![keyed("a", "1")]);
        tokio::time::advance(Duration::from_secs(1)).await;
        order.handed_back(vec![keyed("b", "1")]);
        assert!(order.awaits("a") && order.awaits("b"));
        tokio::time::advance(MAX_ABSENCE - Duration::from_secs(1)).await;
        order.handed_back(vec![keyed("c", "1")]);

        assert!(!order.awaits("a") && order.awaits("b") && order.awaits("c"));
        assert_eq!(order.0.len(), 2, "what is over is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_redelivery_of_pubsub_is_waited_for() {
        let mut order = Order::default();
        order.handed_back(vec![keyed("a", "1")]);

        tokio::time::advance(Duration::from_secs(10 * 60)).await;

        assert!(!admits(&mut order, &message("a", "2")));
        assert!(admits(&mut order, &message("a", "1")));
    }

    #[test]
    fn a_message_without_an_id_is_not_awaited() {
        let mut order = Order::default();

        order.handed_back(vec![keyed("a", "")]);
        order.followed(keyed("b", ""));

        assert!(admits(&mut order, &message("a", "")) && admits(&mut order, &message("b", "")));
    }
}
