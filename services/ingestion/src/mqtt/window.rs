//! Acknowledgements that the broker waits for, in the order of the PUBLISHes.

use std::collections::VecDeque;

/// Unacknowledged messages of one connection, oldest first.
#[derive(Debug, Default)]
pub(super) struct Window {
    slots: VecDeque<Slot>,
    first: u64,
}

#[derive(Debug)]
struct Slot {
    packet_id: u16,
    is_acked: bool,
}

impl Window {
    /// Adds a message. Returns its position.
    pub(super) fn push(&mut self, packet_id: u16) -> u64 {
        self.slots.push_back(Slot { packet_id, is_acked: false });
        self.first + self.slots.len() as u64 - 1
    }

    /// Marks the message at this position as safe.
    pub(super) fn ack(&mut self, place: u64) {
        let index = place.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        if let Some(slot) = index.and_then(|index| self.slots.get_mut(index)) {
            slot.is_acked = true;
        }
    }

    /// Returns the packet id whose PUBACK is due: that of the oldest message, once it is safe
    /// [MQTT-4.6.0-2].
    pub(super) fn due(&self) -> Option<u16> {
        self.slots.front().filter(|slot| slot.is_acked).map(|slot| slot.packet_id)
    }

    /// Returns whether every message is acknowledged.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Removes the oldest message, because its PUBACK is queued.
    pub(super) fn pop(&mut self) {
        if self.slots.pop_front().is_some() {
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn acknowledgements_leave_in_the_order_of_the_messages(
            order in proptest::collection::vec(any::<prop::sample::Index>(), 0..50)
        ) {
            let mut window = Window::default();
            let mut places: Vec<_> = (0..order.len()).map(|id| window.push(id as u16)).collect();
            let mut sent = Vec::new();

            for index in &order {
                window.ack(places.remove(index.index(places.len())));
                while let Some(packet_id) = window.due() {
                    sent.push(usize::from(packet_id));
                    window.pop();
                }
            }

            prop_assert_eq!(sent, (0..order.len()).collect::<Vec<_>>());
            prop_assert!(window.slots.is_empty());
        }
    }
}
