//! Cost of bigqueries, for `plan --rate`.

use humantime_serde::re::humantime::format_duration;
use pubsub::cost;
use service::cost::{Factor, Item, Load, Per, Prices, Role, SECONDS_A_MONTH};

use super::{Api, Settings};

/// Bytes of `message_id`, `publish_time` and `ingest_id` in BigQuery: two texts of 16 and 36
/// characters with 2 bytes more, and 8 bytes of a TIMESTAMP.
/// <https://cloud.google.com/bigquery/pricing#data>
const METADATA_BYTES: f64 = 18.0 + 8.0 + 38.0;

/// Returns the cost of a month for these messages.
pub(super) fn of(settings: &Settings, load: &Load, prices: &Prices) -> Vec<Item> {
    let metadata = if settings.table.metadata_columns { METADATA_BYTES } else { 0.0 };
    let row = load.payload_bytes + metadata;
    let note = format!("the columns hold about the {} bytes of the payload", load.payload_bytes);
    let note = match settings.table.metadata_columns {
        true => format!("{note}, and {METADATA_BYTES} of message_id, publish_time and ingest_id"),
        false => note,
    };
    let prices_of = &prices.bigquery;
    let least = prices_of.insert_all_min_row_bytes;
    let role = |api| if settings.write == api { Role::Cost } else { Role::Comparison };
    let written = |name, bytes, price, role, note| {
        let factors =
            vec![Factor::new(load.rate, "rows/s"), Factor::new(bytes, "bytes"), Factor::MONTH];
        Item { name, factors, price, per: Per::Gib, role, note }
    };
    let load_jobs = "bigqueries uses none: rows would arrive minutes later".to_owned();
    vec![
        cost::delivery(load, settings.input, prices),
        written(
            "BigQuery: storage_write",
            row,
            prices_of.storage_write_per_gib,
            role(Api::StorageWrite),
            note,
        ),
        written(
            "BigQuery: insert_all",
            row.max(least),
            prices_of.insert_all_per_gib,
            role(Api::InsertAll),
            format!("a row is billed for at least {least} bytes"),
        ),
        written("BigQuery: load jobs", row, prices_of.load_per_gib, Role::Comparison, load_jobs),
        storage(settings, load, row, prices),
    ]
}

/// Returns the cost of keeping rows for a month.
fn storage(settings: &Settings, load: &Load, row: f64, prices: &Prices) -> Item {
    let expires_in = settings.table.partition_by.as_ref().and_then(|days| days.expires_in);
    let (seconds, note) = match expires_in {
        Some(age) => {
            let note =
                format!("partitions expire after {}, so no more is kept", format_duration(age));
            (age.as_secs_f64(), note)
        }
        None => {
            let note =
                "rows of one month; rows never expire, so each month adds as much".to_owned();
            (SECONDS_A_MONTH, note)
        }
    };
    let factors = vec![
        Factor::new(load.rate, "rows/s"),
        Factor::new(row, "bytes"),
        Factor::new(seconds, "s"),
    ];
    let price = prices.bigquery.storage_per_gib_month;
    Item { name: "BigQuery: storage", factors, price, per: Per::GibMonth, role: Role::Cost, note }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use service::cost::sum;

    use super::*;
    use crate::config::Partitions;

    fn of_settings(change: impl FnOnce(&mut Settings)) -> Vec<Item> {
        let mut settings = Settings::default();
        change(&mut settings);
        of(&settings, &Load::new(1_000.0, 300.0), &Prices::built_in())
    }

    fn costs(items: &[Item]) -> Vec<f64> {
        items.iter().map(|item| (item.cost() * 100.0).round() / 100.0).collect()
    }

    #[test]
    fn each_way_of_writing_costs_what_a_hand_works_out() {
        let written = of_settings(|_| {});
        let inserted = of_settings(|settings| settings.write = Api::InsertAll);

        // A row has 364 bytes, a month 2628000000 rows: 956592000000 bytes, or 890.9 GiB.
        // Delivery as Pub/Sub bills it, 890.9 x 0.025, at least 1024 bytes each: 2506.26 x 0.0512,
        // nothing, 890.9 x 0.02.
        let by_hand = [95.61, 22.27, 128.32, 0.0, 17.82];
        assert_eq!(costs(&written), by_hand);
        assert_eq!(costs(&inserted), by_hand);
        assert!((sum(&written) - (95.61 + 22.27 + 17.82)).abs() < 0.02, "{}", sum(&written));
        assert!((sum(&inserted) - (95.61 + 128.32 + 17.82)).abs() < 0.02, "{}", sum(&inserted));
    }

    #[test]
    fn expired_partitions_bound_what_is_kept() {
        let of_days = |days: u64| {
            let expires_in = Some(Duration::from_secs(days * 24 * 3600));
            let partitions = Partitions { expires_in, ..Partitions::default() };
            let items = of_settings(|settings| settings.table.partition_by = Some(partitions));
            items[4].cost()
        };

        // 1000 x 364 x 86400 x 90 / 2^30 x 0.02.
        assert!((of_days(90) - 52.72).abs() < 0.01, "{}", of_days(90));
        assert!((of_days(180) / of_days(90) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn a_table_without_metadata_has_smaller_rows() {
        let items = of_settings(|settings| settings.table.metadata_columns = false);

        assert_eq!(items[1].factors[1].value, 300.0);
    }

    #[test]
    fn twice_the_rate_costs_twice() {
        let (settings, prices) = (Settings::default(), Prices::built_in());
        for rate in [0.1, 7.0, 90_000.0] {
            let cost = |rate| sum(&of(&settings, &Load::new(rate, 300.0), &prices));
            let ratio = cost(2.0 * rate) / cost(rate);
            assert!((ratio - 2.0).abs() < 1e-9, "{rate}: {ratio}");
        }
    }
}
