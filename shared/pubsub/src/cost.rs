//! Cost of Pub/Sub, for `plan --rate`.

use message::envelope::Input;
use pipeline::Limits;
use service::cost::{Factor, Item, Load, Per, Prices, Role};

use crate::limits::MAX_REQUEST_MESSAGES;

/// Assumed duration of a publish request.
const REQUEST_SECONDS: f64 = 0.05;

/// Returns the cost of reading each message once from a subscription.
#[must_use]
pub fn delivery(load: &Load, input: Input, prices: &Prices) -> Item {
    let (bytes, least) = (load.message_bytes(input), prices.pubsub.min_request_bytes);
    let note = format!(
        "{bytes:.0} bytes with envelope, attributes, id and time; assumed alone in its response, \
         which is billed for at least {least} bytes"
    );
    throughput("Pub/Sub: delivery", load, bytes.max(least), note, prices)
}

/// Returns the cost of publishing each message once, with its envelope. A request holds messages of
/// one ordering key of `keys`; without order there is one.
#[must_use]
pub fn publishing(load: &Load, limits: &Limits, keys: u32, prices: &Prices) -> Item {
    let (bytes, least) = (load.message_bytes(Input::Envelope), prices.pubsub.min_request_bytes);
    let messages = (messages_in_batch(load, limits, bytes) / f64::from(keys)).max(1.0);
    let note = format!(
        "{bytes:.0} bytes with envelope, attributes, id and time; about {messages:.1} messages a \
         request of {} ms, which is billed for at least {least} bytes",
        REQUEST_SECONDS * 1_000.0
    );
    throughput("Pub/Sub: publishing", load, bytes.max(least / messages), note, prices)
}

fn throughput(name: &'static str, load: &Load, bytes: f64, note: String, prices: &Prices) -> Item {
    let factors =
        vec![Factor::new(load.rate, "messages/s"), Factor::new(bytes, "bytes"), Factor::MONTH];
    let price = prices.pubsub.throughput_per_tib;
    Item { name, factors, price, per: Per::Tib, role: Role::Cost, note }
}

/// Returns the mean number of messages in a batch.
fn messages_in_batch(load: &Load, limits: &Limits, bytes: f64) -> f64 {
    let batch = &limits.batch;
    let rate_of_lane = load.rate / limits.lane_count() as f64;
    let seconds = if batch.max_idle.is_zero() {
        // A batch grows only while all requests of the lane are under way.
        REQUEST_SECONDS / limits.max_writes as f64
    } else if rate_of_lane * batch.max_idle.as_secs_f64() > 1.0 {
        batch.max_age.as_secs_f64()
    } else {
        0.0
    };
    let most = batch.max_messages.min(MAX_REQUEST_MESSAGES) as f64;
    let most = most.min(batch.max_bytes as f64 / bytes).max(1.0);
    (rate_of_lane * seconds).clamp(1.0, most)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pipeline::batch::BatchLimits;
    use proptest::prelude::*;

    use super::*;

    fn limits(max_idle: u64) -> Limits {
        let max_idle = Duration::from_secs(max_idle);
        let batch = BatchLimits { max_idle, ..BatchLimits::default() };
        Limits { lanes: 2, max_writes: 4, batch, ..Limits::default() }
    }

    fn bytes(item: &Item) -> f64 {
        item.factors[1].value
    }

    #[test]
    fn a_delivery_is_billed_for_at_least_a_request() {
        let prices = Prices::built_in();

        let small = delivery(&Load::new(1_000.0, 300.0), Input::Auto, &prices);
        let large = delivery(&Load::new(1_000.0, 3_000.0), Input::Auto, &prices);
        let raw = delivery(&Load::new(1_000.0, 3_000.0), Input::Raw, &prices);

        // 400 + 300 + 200 + 40 = 940 bytes are billed as 1000.
        assert_eq!(bytes(&small), 1_000.0);
        // 1000 x 1000 x 2628000 / 2^40 x 40.
        assert!((small.cost() - 95.606).abs() < 1e-3, "{}", small.cost());
        assert_eq!(bytes(&large), 4_000.0 + 540.0);
        assert_eq!(bytes(&raw), 3_040.0);
    }

    #[test]
    fn messages_of_a_request_share_its_least_bytes() {
        let (prices, load) = (Prices::built_in(), Load::new(320.0, 30.0));
        let of = |load: &Load, limits: &Limits, keys| publishing(load, limits, keys, &prices);

        // A message has 40 + 540 = 580 bytes. Two lanes have four requests of 50 ms each at a time, or
        // 160 a second. So 320 messages a second are two a request, which has more than 1000 bytes.
        assert_eq!(bytes(&of(&load, &limits(0), 1)), 580.0);
        // 160 messages a second are alone in their requests.
        assert_eq!(bytes(&of(&Load::new(160.0, 30.0), &limits(0), 1)), 1_000.0);
        assert_eq!(bytes(&of(&Load::new(200.0, 30.0), &limits(0), 1)), 800.0);
        // A batch that waits for its age of a second has the ten messages of its lane.
        assert_eq!(bytes(&of(&Load::new(20.0, 30.0), &limits(1), 1)), 580.0);
        assert_eq!(bytes(&of(&Load::new(2.0, 30.0), &limits(1), 1)), 1_000.0, "one a second");
        // With 256 ordering keys, each message has a request of its own.
        assert_eq!(bytes(&of(&load, &limits(0), 256)), 1_000.0);
    }

    proptest! {
        #[test]
        fn twice_the_rate_costs_about_twice(
            rate in 0.01..100_000.0_f64,
            payload in 1.0..100_000.0_f64,
            max_idle in 0..3_u64,
        ) {
            let prices = Prices::built_in();
            let (once, twice) = (Load::new(rate, payload), Load::new(2.0 * rate, payload));
            let published = |load| publishing(load, &limits(max_idle), 1, &prices).cost();
            let delivered = |load| delivery(load, Input::Auto, &prices).cost();

            let ratio = published(&twice) / published(&once);
            // Larger batches can only make a message cheaper, down to its own bytes.
            let cheapest = once.message_bytes(Input::Envelope) / 1_000.0;
            prop_assert!(ratio <= 2.0 + 1e-9, "{ratio}");
            prop_assert!(ratio >= 2.0 * cheapest.min(1.0) - 1e-9, "{ratio}");
            let ratio = delivered(&twice) / delivered(&once);
            prop_assert!((ratio - 2.0).abs() < 1e-9, "{ratio}");
        }
    }
}
