//! SUBSCRIBEs and UNSUBSCRIBEs without an answer yet, by their packet ids.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::client::Request;
use super::wire::{Reading, Wire};
use crate::routes::Subscription;

/// Maximum number of filters in one packet. Brokers have limits; AWS IoT accepts eight.
const FILTERS_PER_PACKET: usize = 8;

/// Maximum number of time-outs that a request may wait while messages arrive.
pub(super) const MAX_POSTPONEMENTS: u32 = 30;

/// Requests that the broker has not answered yet.
#[derive(Debug)]
pub(super) struct Requests {
    last_id: u16,
    subscribes: HashMap<u16, Vec<Subscription>>,
    unsubscribes: HashSet<u16>,
    timeout: Duration,
    /// Time by which the broker must have answered one of them.
    answer_by: Option<Instant>,
    /// Latest time to which arriving messages can postpone `answer_by`. It moves on while nothing
    /// is read.
    latest: Instant,
    /// Time since which nothing is read.
    stopped_at: Option<Instant>,
}

impl Requests {
    /// Creates the set of requests. They fail after `timeout` without an answer.
    pub(super) fn new(timeout: Duration) -> Self {
        Self {
            last_id: 0,
            subscribes: HashMap::new(),
            unsubscribes: HashSet::new(),
            timeout,
            answer_by: None,
            latest: Instant::now(),
            stopped_at: None,
        }
    }

    pub(super) fn subscribe(
        &mut self,
        wire: &mut Wire,
        filters: &[Subscription],
    ) -> Result<(), String> {
        for filters in filters.chunks(FILTERS_PER_PACKET) {
            let packet_id = self.next_id();
            wire.say(Request::Subscribe { packet_id, filters })?;
            self.subscribes.insert(packet_id, filters.to_vec());
        }
        self.start_time();
        Ok(())
    }

    pub(super) fn unsubscribe(
        &mut self,
        wire: &mut Wire,
        filters: &[String],
    ) -> Result<(), String> {
        for filters in filters.chunks(FILTERS_PER_PACKET) {
            let packet_id = self.next_id();
            wire.say(Request::Unsubscribe { packet_id, filters })?;
            self.unsubscribes.insert(packet_id);
        }
        self.start_time();
        Ok(())
    }

    /// Returns the filters that a SUBACK answers. Returns `None` for a SUBACK that no request asked
    /// for.
    pub(super) fn subscribed(&mut self, packet_id: u16) -> Option<Vec<Subscription>> {
        let filters = self.subscribes.remove(&packet_id)?;
        self.start_time();
        Some(filters)
    }

    /// Records an UNSUBACK.
    pub(super) fn unsubscribed(&mut self, packet_id: u16) {
        if self.unsubscribes.remove(&packet_id) {
            self.start_time();
        }
    }

    /// Starts the time limit for the answer.
    fn start_time(&mut self) {
        self.latest = Instant::now() + self.timeout * MAX_POSTPONEMENTS;
        self.postpone();
    }

    /// Restarts the time limit for the answer, up to its maximum, because the broker is busy with
    /// messages.
    pub(super) fn postpone(&mut self) {
        let is_waiting = self.is_subscribing() || self.is_unsubscribing();
        self.answer_by = is_waiting.then(|| self.latest.min(Instant::now() + self.timeout));
    }

    /// Stops the time limit for the answer while nothing is read.
    pub(super) fn count_time(&mut self, reading: Reading) {
        match (reading, self.stopped_at) {
            (Reading::Off, _) => {
                self.answer_by = None;
                self.stopped_at.get_or_insert_with(Instant::now);
            }
            (Reading::On, None) => {}
            (Reading::On, Some(stopped_at)) => {
                self.latest += stopped_at.elapsed();
                self.stopped_at = None;
                self.postpone();
            }
        }
    }

    pub(super) fn is_subscribing(&self) -> bool {
        !self.subscribes.is_empty()
    }

    pub(super) fn is_unsubscribing(&self) -> bool {
        !self.unsubscribes.is_empty()
    }

    pub(super) fn answer_by(&self) -> Option<Instant> {
        self.answer_by
    }

    /// Returns an id that no waiting request has, and never 0 [MQTT-2.2.1-3].
    fn next_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            let id = self.last_id;
            if !self.subscribes.contains_key(&id) && !self.unsubscribes.contains(&id) {
                return id;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_gets_an_id_that_no_waiting_request_has() {
        let mut requests = Requests::new(Duration::from_secs(1));
        requests.last_id = u16::MAX;
        requests.subscribes.insert(1, Vec::new());
        requests.unsubscribes.insert(2);

        assert_eq!(requests.next_id(), 3);
    }
}
