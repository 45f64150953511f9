//! Faults: links with little bandwidth or a high latency, for minutes. Messages must pass as fast
//! as the link allows.

use std::time::Duration;

use tokio::time::Instant;

use super::observations::Observations;
use super::oracle::{Outcome, SenderId};
use super::report::{Injected, Report};
use crate::proxy::Thin;

/// A link that is slow for as long as the fault lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SlowLink {
    pub(super) link: &'static str,
    pub(super) thin: Thin,
}

/// Links that become slow.
const LINKS: [&str; 5] = ["mqtt", "publish", "pubsub", "bigquery", "storage"];
/// Bytes a second of a link that is not limited.
const WIDE: u32 = 100_000_000;
/// Size of a payload in a run of one such fault.
pub(super) const PAYLOAD_BYTES: usize = 1_000;
/// Approximate bytes on a link for one payload of that size, with attributes and encoding.
const MESSAGE_BYTES: u32 = 2_000;
/// Readings a second for a link without a bandwidth limit.
const USUAL_RATE: u32 = 40;
/// Most bytes that one attempt may carry over a link of low bandwidth.
const UNIT_BYTES: u32 = 256 * 1024;
/// Tolerance: a stall is this many times longer than one attempt needs. A rate is too low below
/// this fraction of the possible one.
const PATIENCE: u32 = 4;
/// Shortest time that counts as a stall: one attempt that timed out.
const SHORTEST_STALL: Duration = Duration::from_secs(35);
/// Time until a slow link shows its steady state: the first attempts may be too large for it.
const SETTLING: Duration = Duration::from_secs(30);

/// Returns all slow links, with their names.
pub(super) fn catalogue() -> Vec<(String, SlowLink)> {
    let kinds = [
        ("thin", "-20k", thin(20_000, 20_000)),
        ("thin", "-50k", thin(50_000, 50_000)),
        ("thin", "-140k", thin(140_000, 140_000)),
        ("thin", "-uplink-100k", thin(100_000, WIDE)),
        // A round trip takes five seconds.
        ("far", "", Thin { up: WIDE, down: WIDE, latency: Duration::from_millis(2_500) }),
    ];
    let of = |link| {
        kinds.map(|(kind, rate, thin)| (format!("{kind}-{link}{rate}"), SlowLink { link, thin }))
    };
    LINKS.into_iter().flat_map(of).collect()
}

fn thin(up: u32, down: u32) -> Thin {
    Thin { up, down, latency: Duration::from_millis(50) }
}

impl SlowLink {
    /// Returns the services whose records pass the link.
    fn services(self) -> &'static [&'static str] {
        match self.link {
            "mqtt" | "publish" => &["ingestion"],
            "bigquery" => &["bigqueries"],
            "storage" => &["icestore"],
            _ => &["enrich", "bigqueries", "icestore", "postgres"],
        }
    }

    /// Returns the bytes a second in the direction of the records.
    fn rate(self) -> u32 {
        match self.link {
            "mqtt" => self.thin.down,
            "pubsub" => self.thin.down.min(self.thin.up),
            _ => self.thin.up,
        }
    }

    /// Returns the readings a second to send.
    ///
    /// It is three times what the link can carry, so every service has a backlog. The Pub/Sub link
    /// gets less than it can carry: with a backlog leases would end on the way. Then Pub/Sub would
    /// send everything again and again.
    pub(super) fn load(self) -> u32 {
        let messages = self.rate() / MESSAGE_BYTES;
        match self.link {
            _ if self.rate() == WIDE => USUAL_RATE,
            // Each reading passes the link six times.
            "pubsub" => (messages / 8).max(1),
            _ => messages * 3,
        }
    }

    /// Returns the longest time without a confirmed record that is accepted.
    fn longest_stall(self) -> Duration {
        let unit = Duration::from_secs_f64(f64::from(UNIT_BYTES) / f64::from(self.rate()));
        SHORTEST_STALL.max(unit * PATIENCE) + self.thin.latency * 2 * PATIENCE
    }

    /// Reports failures for records that passed too slowly, arrived too often, or stopped.
    pub(super) fn check(
        self,
        report: &mut Report,
        event: &Injected,
        outcome: &Outcome,
        observations: &Observations,
    ) {
        let (from, to) = (event.from, event.to);
        let name = &event.name;
        let settled = (from + SETTLING).min(to);
        let seconds = (to - settled).as_secs_f64();
        for service in self.services() {
            let stall = observations.progress.stall(service, |counts| counts.sent, from..=to);
            let gained = observations.progress.gained(service, settled, to);
            let offered = offered(outcome, settled, to);
            let passed = gained.sent_bytes as f64 / seconds.max(1.0);
            report.measures.push(format!(
                "{name}: {service} confirmed {} of {offered} messages, {:.1} KB/s, longest stall {:.1} s",
                gained.sent,
                passed / 1e3,
                stall.as_secs_f64()
            ));
            if stall > self.longest_stall() {
                let most = self.longest_stall();
                report
                    .failures
                    .push(format!("{name}: {service} stood still for {stall:?}, {most:?} at most"));
            }
            let is_slow = passed < f64::from(self.rate() / PATIENCE) && gained.sent < offered / 2;
            if is_slow && seconds > 0.0 {
                report
                    .failures
                    .push(format!("{name}: {service} does not use what the link passes"));
            }
        }
        let reconnects = observations.progress.gained("ingestion", from, to).reconnects;
        report.slow_reconnects += reconnects;
        if reconnects > 0 {
            report.failures.push(format!("{name}: MQTT connections ended {reconnects} times"));
        }
        // One copy at each destination.
        let often = outcome.duplicates.values().filter(|copies| **copies > 2).count();
        if often > 0 {
            report.failures.push(format!("{name}: {often} messages came more than twice"));
        }
    }
}

/// Counts the readings that the broker accepted in a time range.
fn offered(outcome: &Outcome, from: Instant, to: Instant) -> u64 {
    let is_meant = |(sender, at): &&(SenderId, Instant)| {
        matches!(sender, SenderId::Fleet(..)) && (from..=to).contains(at)
    };
    outcome.obligations.iter().filter(is_meant).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thin_link_gets_more_than_it_passes_and_time_for_a_part_of_it() {
        let link = SlowLink { link: "publish", thin: thin(20_000, 20_000) };

        assert_eq!(link.load(), 30);
        assert!((52..54).contains(&link.longest_stall().as_secs()));
        let far = catalogue().into_iter().find(|(name, _)| name == "far-mqtt").map(|(_, far)| far);
        assert_eq!(far.map(SlowLink::load), Some(USUAL_RATE));
        assert_eq!(far.map(|far| far.longest_stall().as_secs()), Some(55));
    }
}
