//! Links with little bandwidth, or a long way, for minutes: messages must pass at their speed.

use std::time::Duration;

use tokio::time::Instant;

use super::oracle::{Sender, Verdict};
use super::report::{Injected, Report};
use super::watch::Sight;
use crate::proxy::Thin;

/// A link that is slow for as long as the fault lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SlowLink {
    pub(super) link: &'static str,
    pub(super) thin: Thin,
}

/// Links that become slow.
const LINKS: [&str; 5] = ["mqtt", "publish", "pubsub", "bigquery", "storage"];
/// Neither limits anything nor delays it.
const WIDE: u32 = 100_000_000;
/// Size of a payload in a run of one such fault.
pub(super) const PAYLOAD_BYTES: usize = 1_000;
/// Bytes that a payload of that size makes on a link, attributes and encoding included, about.
const MESSAGE_BYTES: u32 = 2_000;
/// Readings a second where the bandwidth does not say how many.
const USUAL_RATE: u32 = 40;
/// Most bytes that one attempt should carry over a link that passes no more.
const UNIT_BYTES: u32 = 256 * 1024;
/// How many times what the rate needs is a stall, and how little of the rate is too little.
const PATIENCE: u32 = 4;
/// The shortest time that counts as a stall: an attempt that was given up.
const SHORTEST_STALL: Duration = Duration::from_secs(35);
/// Until the effects of a slow link have settled: the first attempts may be too large for it.
const SETTLING: Duration = Duration::from_secs(30);

/// All of them, by name.
pub(super) fn catalogue() -> Vec<(String, SlowLink)> {
    let kinds = [
        ("thin", "-20k", thin(20_000, 20_000)),
        ("thin", "-50k", thin(50_000, 50_000)),
        ("thin", "-140k", thin(140_000, 140_000)),
        ("thin", "-uplink-100k", thin(100_000, WIDE)),
        // Five seconds for the way there and back.
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
    /// The services whose records pass it.
    fn services(self) -> &'static [&'static str] {
        match self.link {
            "mqtt" | "publish" => &["ingestion"],
            "bigquery" => &["bigqueries"],
            "storage" => &["icestore"],
            _ => &["enrich", "bigqueries", "icestore"],
        }
    }

    /// Bytes a second in the direction that records go.
    fn rate(self) -> u32 {
        match self.link {
            "mqtt" => self.thin.down,
            "pubsub" => self.thin.down.min(self.thin.up),
            _ => self.thin.up,
        }
    }

    /// Readings a second: three times what the link passes, so that everybody has a backlog. Where
    /// Pub/Sub would send all of the backlog again and again, because leases end on the way, it is less
    /// than the link passes.
    pub(super) fn load(self) -> u32 {
        let messages = self.rate() / MESSAGE_BYTES;
        match self.link {
            _ if self.rate() == WIDE => USUAL_RATE,
            // Each reading passes it five times.
            "pubsub" => (messages / 8).max(1),
            _ => messages * 3,
        }
    }

    /// The longest time without a confirmed record.
    fn longest_stall(self) -> Duration {
        let unit = Duration::from_secs_f64(f64::from(UNIT_BYTES) / f64::from(self.rate()));
        SHORTEST_STALL.max(unit * PATIENCE) + self.thin.latency * 2 * PATIENCE
    }

    /// Charges what passed too slowly, came too often, or broke off.
    pub(super) fn judge(
        self,
        (report, event): (&mut Report, &Injected),
        verdict: &Verdict,
        sight: &Sight,
    ) {
        let (from, to) = (event.from, event.to);
        let name = &event.name;
        let settled = (from + SETTLING).min(to);
        let seconds = (to - settled).as_secs_f64();
        for service in self.services() {
            let stall = sight.progress.stall(service, |counts| counts.sent, (from, to));
            let gained = sight.progress.gained(service, settled, to);
            let offered = offered(verdict, settled, to);
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
                    .charges
                    .push(format!("{name}: {service} stood still for {stall:?}, {most:?} at most"));
            }
            let is_slow = passed < f64::from(self.rate() / PATIENCE) && gained.sent < offered / 2;
            if is_slow && seconds > 0.0 {
                report.charges.push(format!("{name}: {service} does not use what the link passes"));
            }
        }
        let reconnects = sight.progress.gained("ingestion", from, to).reconnects;
        report.slow_reconnects += reconnects;
        if reconnects > 0 {
            report.charges.push(format!("{name}: MQTT connections ended {reconnects} times"));
        }
        // One at each end.
        let often = verdict.duplicates.values().filter(|copies| **copies > 2).count();
        if often > 0 {
            report.charges.push(format!("{name}: {often} messages came more than twice"));
        }
    }
}

/// Readings that the broker took meanwhile.
fn offered(verdict: &Verdict, from: Instant, to: Instant) -> u64 {
    let is_meant = |(sender, at): &&(Sender, Instant)| {
        matches!(sender, Sender::Fleet(..)) && (from..=to).contains(at)
    };
    verdict.obligations.iter().filter(is_meant).count() as u64
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
