//! Cost of enrich, for `plan --rate`.

use pubsub::cost;
use service::cost::{Factor, Item, Load, Per, Prices, Role};

use super::Settings;
use crate::cache::settings::LookupSettings;

/// Returns the cost of a month for these messages.
pub(super) fn of(settings: &Settings, load: &Load, prices: &Prices) -> Vec<Item> {
    let (reads, note) = reads(&settings.cache, load);
    let item = |name, reads, role, note| Item {
        name,
        factors: vec![Factor::new(reads, "reads/s"), Factor::MONTH],
        price: prices.firestore.reads_per_100000,
        per: Per::HundredThousandReads,
        role,
        note,
    };
    let saved = "with no cache, each message would read its document".to_owned();
    vec![
        cost::delivery(load, settings.enrichment.input, prices),
        cost::publishing(load, &settings.pipeline, 1, prices),
        item("Firestore: reads", reads, Role::Cost, note),
        item("Firestore: reads that the caches save", load.rate - reads, Role::Comparison, saved),
    ]
}

/// Returns the documents that are read in a second, and the assumptions behind them.
fn reads(cache: &LookupSettings, load: &Load) -> (f64, String) {
    let rate = load.rate;
    if let Some(hit_rate) = load.hit_rate {
        let note = format!("a cache has the document of {} % of the messages", hit_rate * 100.0);
        return (rate * (1.0 - hit_rate), note);
    }
    let Some(devices) = load.devices else {
        let note = "assumed that no cache has a document: give --devices or --hit-rate".to_owned();
        return (rate, note);
    };
    // The jitter shortens the time of a document by half of it, as a mean.
    let shortened = 1.0 - f64::from(cache.freshness.jitter_percent) / 200.0;
    let fresh = cache.freshness.fresh_for.as_secs_f64() * shortened;
    let of_fresh = rate.min(devices / fresh);
    let entries = cache.memory.max_entries.limit().map_or(f64::INFINITY, |limit| limit as f64);
    let (held, layers) = match cache.redis.url {
        Some(_) => (1.0, "Redis has all documents".to_owned()),
        None => {
            let held = if entries.is_finite() { format!("{entries}") } else { "all".to_owned() };
            let layers = format!(
                "memory has {held} documents; without Redis, each further replica reads as much"
            );
            ((entries / devices).min(1.0), layers)
        }
    };
    let note = format!("{devices} devices, each read once in {fresh:.0} s; {layers}");
    (held * of_fresh + (1.0 - held) * rate, note)
}

#[cfg(test)]
mod tests {
    use service::cost::sum;

    use super::*;

    fn of_settings(change: impl FnOnce(&mut Settings), load: &Load) -> Vec<Item> {
        let mut settings = Settings::default();
        settings.pipeline.lanes = 2;
        change(&mut settings);
        of(&settings, load, &Prices::built_in())
    }

    fn reads_a_second(items: &[Item]) -> f64 {
        items[2].factors[0].value
    }

    #[test]
    fn a_month_with_a_known_hit_rate_costs_what_a_hand_works_out() {
        let load = Load { hit_rate: Some(0.99), ..Load::new(1_000.0, 300.0) };

        let items = of_settings(|_| {}, &load);

        let costs: Vec<_> = items.iter().map(Item::cost).collect();
        // Delivery: 1000 x 1000 x 2628000 / 2^40 x 40. Publishing: 940 bytes each.
        // Reads: 10 x 2628000 / 100000 x 0.03, and 990 that are saved.
        let by_hand = [95.606, 89.870, 7.884, 780.516];
        for (cost, by_hand) in costs.iter().zip(by_hand) {
            assert!((cost - by_hand).abs() < 1e-3, "{costs:?}");
        }
        assert!((sum(&items) - (95.606 + 89.870 + 7.884)).abs() < 1e-2, "{}", sum(&items));
    }

    #[test]
    fn freshness_and_devices_tell_the_reads() {
        let of_devices = |devices| Load { devices: Some(devices), ..Load::new(1_000.0, 300.0) };
        let no_jitter = |s: &mut Settings| s.cache.freshness.jitter_percent = 0;

        // 7200 devices, each read once an hour.
        let hourly = of_settings(no_jitter, &of_devices(7_200.0));
        assert_eq!(reads_a_second(&hourly), 2.0);
        // With 10 % jitter a document lasts 95 % of an hour.
        let jitter = reads_a_second(&of_settings(|_| {}, &of_devices(7_200.0)));
        assert!((jitter - 2.0 / 0.95).abs() < 1e-9, "{jitter}");
        // Memory for half of the documents: the other half of the messages is read.
        let half = |s: &mut Settings| {
            no_jitter(s);
            s.cache.memory.max_entries = 3_600.into();
        };
        assert_eq!(reads_a_second(&of_settings(half, &of_devices(7_200.0))), 1.0 + 500.0);
        let with_redis = |s: &mut Settings| {
            half(s);
            s.cache.redis.url = Some("redis://localhost:6379".into());
        };
        assert_eq!(reads_a_second(&of_settings(with_redis, &of_devices(7_200.0))), 2.0);
        // No message is read twice, and without a hint each is read.
        assert_eq!(reads_a_second(&of_settings(no_jitter, &of_devices(1e9))), 1_000.0);
        assert_eq!(reads_a_second(&of_settings(no_jitter, &Load::new(1_000.0, 300.0))), 1_000.0);
    }
}
