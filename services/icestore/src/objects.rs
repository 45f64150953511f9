//! Number, size and cost of objects: as metrics, as a warning, and for the subcommand `plan`.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use pipeline::{Limits, Metrics};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use service::cost::{Per, Prices};
use tokio::time::{Instant, sleep};
use tracing::warn;

/// Pause between two checks of the objects that were written.
const INTERVAL: Duration = Duration::from_secs(60);
/// Pause between two warnings.
const QUIET: Duration = Duration::from_secs(600);
/// Messages of an object below which a warning is due, at one object per second or more.
const SMALL: f64 = 100.0;
const SECONDS_A_DAY: f64 = 86_400.0;
/// Memory of a message of 500 bytes in an open object: its compressed line, and what acknowledges
/// the message.
const MESSAGE_BYTES: usize = 1_040;

/// Price of creating objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Price {
    /// List price of Cloud Storage and Amazon S3 for a request that creates an object.
    ClassA,
    /// A file costs nothing.
    Free,
}

/// Counts of the objects that icestore has written. Clones share their values.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    /// Objects that were created.
    pub created: Counter,
    /// Messages in these objects.
    pub messages: Counter,
    /// Mean messages of an object, in the last minute in which objects were created.
    pub mean_messages: Gauge<f64, AtomicU64>,
}

/// Counts between two checks.
#[derive(Debug, Clone, Copy)]
struct Written {
    seconds: f64,
    objects: u64,
    messages: u64,
    /// Batch keys that are open now.
    open_keys: i64,
}

impl Objects {
    /// Registers all metrics under `dataflow_icestore_...`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("dataflow_icestore");
        let created = "Objects that were created";
        registry.register("objects", created, self.created.clone());
        let messages = "Messages in the objects that were created";
        registry.register("object_messages", messages, self.messages.clone());
        let mean = "Mean messages of an object in the last minute with one";
        registry.register("mean_object_messages", mean, self.mean_messages.clone());
    }

    /// Counts an object with this many messages.
    pub(crate) fn count(&self, messages: u64) {
        self.created.inc();
        self.messages.inc_by(messages);
    }

    /// Warns while objects are small and many. Never returns.
    pub(crate) async fn watch(self, pipeline: Metrics, price: Price) {
        let (mut before, mut quiet_until) = ((0, 0), Instant::now());
        let mut since = Instant::now();
        loop {
            sleep(INTERVAL).await;
            let now = (self.created.get(), self.messages.get());
            let written = Written {
                seconds: since.elapsed().as_secs_f64(),
                objects: now.0 - before.0,
                messages: now.1 - before.1,
                open_keys: pipeline.open_batches.get(),
            };
            (before, since) = (now, Instant::now());
            if written.objects > 0 {
                self.mean_messages.set(written.mean_messages());
            }
            if let Some(advice) = written.advice(price)
                && since >= quiet_until
            {
                quiet_until = since + QUIET;
                warn!("{advice}");
            }
        }
    }
}

impl Written {
    fn mean_messages(&self) -> f64 {
        self.messages as f64 / self.objects.max(1) as f64
    }

    /// Returns advice if objects are small and many.
    fn advice(&self, price: Price) -> Option<String> {
        let objects_a_second = self.objects as f64 / self.seconds;
        let mean = self.mean_messages();
        if objects_a_second < 1.0 || mean >= SMALL {
            return None;
        }
        let (keys, rate) = (self.open_keys, self.messages as f64 / self.seconds);
        let cost = cost_of_day(objects_a_second, price);
        Some(format!(
            "{keys} open keys at {rate:.0}/s give objects of {mean:.0} messages, {cost}: use a coarser \
             archive.batch_key, or allow more pipeline.max_batch_memory or a longer \
             pipeline.batch.max_age"
        ))
    }
}

/// Describes the objects of a day and their cost, at this many objects per second and the list price
/// of creating one. Amazon's price for a PUT is that of Google.
fn cost_of_day(objects_a_second: f64, price: Price) -> String {
    let prices = Prices::built_in();
    let a_day = objects_a_second * SECONDS_A_DAY;
    let cost = a_day / Per::ThousandOperations.size() * prices.cloud_storage.class_a_per_1000;
    let currency = prices.currency;
    match price {
        Price::ClassA => {
            format!("{a_day:.0} objects a day (about {cost:.2} {currency} a day to create them)")
        }
        Price::Free => format!("{a_day:.0} objects a day"),
    }
}

/// Bytes of a message in an open object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held {
    /// Memory of its compressed line, and of what acknowledges it.
    pub(crate) memory: f64,
    /// Bytes of its line in the object.
    pub(crate) stored: f64,
}

/// Estimates the mean number of messages in an object, with this many keys that are open at once.
pub(crate) fn mean_messages(limits: &Limits, keys: f64, rate: f64, held: Held) -> f64 {
    let in_memory = limits.max_batch_memory as f64 / held.memory;
    let in_memory = in_memory.floor().min(limits.max_messages_in_flight as f64);
    // Each lane has its own object for each key. An open object is half full on average.
    let open = keys * limits.lane_count() as f64;
    let most = (2.0 * in_memory / open).floor().min(limits.batch.max_messages as f64);
    let most = most.min(limits.batch.max_bytes as f64 / held.stored).max(1.0);
    let of_age = (rate * limits.batch.max_age.as_secs_f64() / open).max(1.0);
    most.min(of_age)
}

/// Estimates the size and the cost of objects, for several numbers of keys that are open at once.
pub(crate) fn outlook(limits: &Limits, price: Price) -> Vec<String> {
    /// Numbers of open keys.
    const KEYS: [u32; 4] = [10, 1_000, 5_000, 20_000];
    const RATE: f64 = 1_000.0;
    // The size of an object is left out: with many keys, memory or age come first.
    let held = Held { memory: MESSAGE_BYTES as f64, stored: 0.0 };
    let lines = KEYS.map(|keys| {
        let mean = mean_messages(limits, f64::from(keys), RATE, held);
        let cost = cost_of_day(RATE / mean, price);
        format!(
            "objects: {keys} open keys, {RATE:.0} messages/s of 500 bytes: {mean:.0} messages an object, {cost}"
        )
    });
    lines.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_objects_are_worth_a_warning_and_large_or_rare_ones_are_not() {
        let written =
            |objects, messages| Written { seconds: 60.0, objects, messages, open_keys: 1_200 };

        assert_eq!(
            written(1_765, 30_000).advice(Price::ClassA).unwrap().split_once(": ").unwrap().0,
            "1200 open keys at 500/s give objects of 17 messages, 2541600 objects a day (about 12.71 USD \
             a day to create them)"
        );
        assert_eq!(written(59, 118).advice(Price::ClassA), None, "fewer than one a second");
        assert_eq!(written(60, 6_000).advice(Price::ClassA), None);
        assert!(written(60, 5_999).advice(Price::ClassA).is_some());
        assert_eq!(written(0, 0).advice(Price::ClassA), None);
    }

    #[test]
    fn the_outlook_tells_that_more_keys_make_smaller_objects() {
        let limits = Limits {
            lanes: 1,
            max_messages_in_flight: 1_000_000,
            max_batch_memory: 150_000 * MESSAGE_BYTES,
            batch: pipeline::batch::BatchLimits {
                max_messages: 100_000,
                max_age: Duration::from_secs(600),
                ..pipeline::batch::BatchLimits::default()
            },
            ..Limits::default()
        };

        let lines = outlook(&limits, Price::ClassA);
        let two_lanes = outlook(&Limits { lanes: 2, ..limits.clone() }, Price::ClassA);
        let hasty = outlook(
            &Limits {
                batch: pipeline::batch::BatchLimits {
                    max_age: Duration::from_secs(60),
                    ..limits.batch.clone()
                },
                ..limits.clone()
            },
            Price::ClassA,
        );
        let free = outlook(&limits, Price::Free);

        let line = "objects: 5000 open keys, 1000 messages/s of 500 bytes: 60 messages an object, \
                    1440000 objects a day (about 7.20 USD a day to create them)";
        assert_eq!(lines[2], line);
        assert!(free[2].ends_with(": 60 messages an object, 1440000 objects a day"), "{}", free[2]);
        assert!(lines[3].contains(": 15 messages an object"), "{}", lines[3]);
        assert!(two_lanes[2].contains(": 30 messages an object"), "{}", two_lanes[2]);
        assert!(hasty[2].contains(": 12 messages an object"), "{}", hasty[2]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_mean_is_that_of_the_last_minute_with_objects() {
        let (objects, pipeline) = (Objects::default(), Metrics::default());
        let watching = tokio::spawn(objects.clone().watch(pipeline, Price::ClassA));
        let minute = async || sleep(INTERVAL + Duration::from_secs(1)).await;

        objects.count(10);
        objects.count(20);
        minute().await;
        assert_eq!(objects.mean_messages.get(), 15.0);
        objects.count(50);
        minute().await;
        minute().await;

        assert_eq!(objects.mean_messages.get(), 50.0);
        watching.abort();
    }
}
