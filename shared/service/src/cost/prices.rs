//! Table of prices.

use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// Prices that are built in.
const BUILT_IN: &str = include_str!("../../prices.yaml");

/// Table of prices: that of `prices.yaml`, or a file of the same form.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// Day on which they were collected.
    pub date: String,
    /// Region that they are for.
    pub region: String,
    /// Currency, such as `USD`.
    pub currency: String,
    /// Pages that publish them.
    pub sources: Vec<String>,
    /// Prices of Pub/Sub.
    pub pubsub: Pubsub,
    /// Prices of BigQuery.
    pub bigquery: BigQuery,
    /// Prices of Cloud Storage.
    pub cloud_storage: CloudStorage,
    /// Prices of Firestore.
    pub firestore: Firestore,
}

/// Origin of prices, as an estimate shows it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct PriceOrigin {
    pub(super) date: String,
    pub(super) region: String,
    pub(super) currency: String,
    pub(super) sources: Vec<String>,
}

/// Prices of Pub/Sub.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pubsub {
    /// Price of a TiB that is published or delivered.
    pub throughput_per_tib: f64,
    /// Least bytes that a request is billed for.
    pub min_request_bytes: f64,
}

/// Prices of BigQuery.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BigQuery {
    /// Price of a GiB of rows that the Storage Write API writes.
    pub storage_write_per_gib: f64,
    /// Price of a GiB of rows that `insertAll` writes.
    pub insert_all_per_gib: f64,
    /// Least bytes that `insertAll` bills for a row.
    pub insert_all_min_row_bytes: f64,
    /// Price of a GiB of rows that load jobs write.
    pub load_per_gib: f64,
    /// Price of a GiB that is kept for a month.
    pub storage_per_gib_month: f64,
}

/// Prices of Cloud Storage.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloudStorage {
    /// Price of 1,000 operations of class A, such as the creation of an object.
    pub class_a_per_1000: f64,
    /// Price of a GiB that is kept for a month.
    pub storage_per_gib_month: f64,
}

/// Prices of Firestore.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Firestore {
    /// Price of 100,000 documents that are read.
    pub reads_per_100000: f64,
}

impl Prices {
    /// Returns the prices that are built in.
    #[must_use]
    pub fn built_in() -> Self {
        serde_yaml::from_str(BUILT_IN).expect("a test reads this file")
    }

    /// Reads prices from a file of the form of `prices.yaml`.
    ///
    /// # Errors
    /// The file cannot be read, or a price is missing or wrong. The error names both.
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        let name = || format!("read the prices of {}", file.display());
        let text = std::fs::read_to_string(file).with_context(name)?;
        let prices: Self = serde_yaml::from_str(&text).with_context(name)?;
        if let Some((key, price)) =
            prices.numbers().into_iter().find(|(_, price)| !is_right(*price))
        {
            let why = anyhow::anyhow!("{key}: must be a number from 0 on, is {price}");
            return Err(why.context(name()));
        }
        Ok(prices)
    }

    /// Returns date, region, currency and sources.
    pub(super) fn origin(&self) -> PriceOrigin {
        let Self { date, region, currency, sources, .. } = self.clone();
        PriceOrigin { date, region, currency, sources }
    }

    /// Returns all numbers, with their keys.
    fn numbers(&self) -> [(&'static str, f64); 10] {
        let Self { pubsub, bigquery, cloud_storage, firestore, .. } = self;
        [
            ("pubsub.throughput_per_tib", pubsub.throughput_per_tib),
            ("pubsub.min_request_bytes", pubsub.min_request_bytes),
            ("bigquery.storage_write_per_gib", bigquery.storage_write_per_gib),
            ("bigquery.insert_all_per_gib", bigquery.insert_all_per_gib),
            ("bigquery.insert_all_min_row_bytes", bigquery.insert_all_min_row_bytes),
            ("bigquery.load_per_gib", bigquery.load_per_gib),
            ("bigquery.storage_per_gib_month", bigquery.storage_per_gib_month),
            ("cloud_storage.class_a_per_1000", cloud_storage.class_a_per_1000),
            ("cloud_storage.storage_per_gib_month", cloud_storage.storage_per_gib_month),
            ("firestore.reads_per_100000", firestore.reads_per_100000),
        ]
    }
}

fn is_right(price: f64) -> bool {
    price.is_finite() && price >= 0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Prices, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("prices.yaml");
        std::fs::write(&file, text).unwrap();
        Prices::read(&file).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn the_file_of_the_prices_says_where_they_are_from() {
        let prices = Prices::built_in();

        assert!(prices.numbers().iter().all(|(_, price)| is_right(*price)));
        let PriceOrigin { date, region, currency, sources } = &prices.origin();
        let form = time::macros::format_description!("[year]-[month]-[day]");
        assert!(time::Date::parse(date, form).is_ok(), "{date}");
        assert_eq!((&**region, &**currency), ("us-central1", "USD"));
        assert!(sources.iter().all(|page| page.starts_with("https://cloud.google.com/")));
        assert_eq!(read(BUILT_IN), Ok(prices));
    }

    #[test]
    fn prices_of_a_file_are_read_and_faults_are_named_with_the_file() {
        let own = BUILT_IN.replace("throughput_per_tib: 40.0", "throughput_per_tib: 36");
        assert_eq!(read(&own).unwrap().pubsub.throughput_per_tib, 36.0);

        for (from, to, named) in [
            (
                "throughput_per_tib: 40.0",
                "throughput_per_tib: -1",
                "pubsub.throughput_per_tib: must be",
            ),
            (
                "reads_per_100000: 0.03",
                "reads_per_100000: .nan",
                "firestore.reads_per_100000: must be",
            ),
            ("load_per_gib: 0.0", "loads: 0.0", "bigquery: unknown field `loads`"),
            (
                "throughput_per_tib: 40.0",
                "throughput_per_tib: cheap",
                "pubsub.throughput_per_tib: invalid type",
            ),
            ("date: 2026-11-30", "day: 2026-11-30", "unknown field `day`"),
            ("region: us-central1\n", "", "missing field `region`"),
        ] {
            let wrong = read(&BUILT_IN.replace(from, to)).unwrap_err();
            assert!(wrong.starts_with("read the prices of /"), "{wrong}");
            assert!(wrong.contains("prices.yaml") && wrong.contains(named), "{wrong}");
        }
        let missing = Prices::read(Path::new("/nowhere/prices.yaml")).unwrap_err();
        assert!(format!("{missing:#}").starts_with("read the prices of /nowhere/prices.yaml: "));
    }
}
