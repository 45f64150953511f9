//! Cost of icestore, for `plan --rate`.

use pubsub::cost;
use service::cost::{Factor, Item, Load, Per, Prices, Role};

use super::Settings;
use crate::objects::{Held, Price, mean_messages};

/// Bytes of a line beside the data of its message: ids, times, key and attributes.
const LINE_BYTES: f64 = 450.0;
/// Plain bytes for each byte of an object, if the user does not say. Lines of generated messages
/// with payloads of 100 to 1000 bytes gave 4.2 to 3.0 with gzip at level 1.
const COMPRESSION: f64 = 3.5;
/// Memory that acknowledges a message, beside its line.
const ACK_BYTES: f64 = 600.0;

/// Returns the cost of a month for these messages. Nobody bills the files of a folder.
pub(super) fn of(settings: &Settings, load: &Load, prices: &Prices) -> Vec<Item> {
    let input = settings.archive.input;
    let delivery = cost::delivery(load, input, prices);
    if settings.storage.price() == Price::Free {
        return vec![delivery];
    }
    let (names, origin) = if settings.storage.is_bucket() {
        (["Cloud Storage: objects", "Cloud Storage: storage"], "")
    } else {
        (["S3: objects", "S3: storage"], "; the price is that of Cloud Storage")
    };
    // The data is in the line in base64.
    let line = (load.data_bytes(input) / 3.0).ceil() * 4.0 + LINE_BYTES;
    let ratio = load.compression.unwrap_or(COMPRESSION);
    let stored = line / ratio;
    let held = Held { memory: stored + ACK_BYTES, stored };
    let messages = mean_messages(&settings.pipeline, load.keys, load.rate, held);
    let keys = load.keys;
    let objects = Item {
        name: names[0],
        factors: vec![Factor::new(load.rate / messages, "objects/s"), Factor::MONTH],
        price: prices.cloud_storage.class_a_per_1000,
        per: Per::ThousandOperations,
        role: Role::Cost,
        note: format!(
            "{messages:.0} messages an object, with {keys} open keys and the limits of pipeline.batch; \
             each object is an operation of class A{origin}"
        ),
    };
    let is_assumed = if load.compression.is_none() { "assumed to be " } else { "" };
    let factors =
        vec![Factor::new(load.rate, "messages/s"), Factor::new(stored, "bytes"), Factor::MONTH];
    let storage = Item {
        name: names[1],
        factors,
        price: prices.cloud_storage.storage_per_gib_month,
        per: Per::GibMonth,
        role: Role::Cost,
        note: format!(
            "lines of {line:.0} bytes, {is_assumed}{ratio} times as large as in the object; objects of \
             one month, and each month adds as much until they are deleted{origin}"
        ),
    };
    vec![delivery, objects, storage]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use service::cost::sum;

    use super::*;

    fn settings() -> Settings {
        let mut settings = Settings::default();
        let pipeline = &mut settings.pipeline;
        pipeline.lanes = 1;
        pipeline.max_messages_in_flight = 400_000;
        pipeline.max_batch_memory = 150 * 1024 * 1024;
        pipeline.batch.max_messages = 100_000;
        pipeline.batch.max_bytes = 7 * 1024 * 1024;
        pipeline.batch.max_age = Duration::from_secs(60);
        settings
    }

    fn costs(settings: &Settings, load: &Load) -> Vec<f64> {
        of(settings, load, &Prices::built_in()).iter().map(Item::cost).collect()
    }

    #[test]
    fn objects_and_bytes_of_a_month_cost_what_a_hand_works_out() {
        let load = Load { compression: Some(4.0), ..Load::new(1_000.0, 300.0) };

        let of_bytes = costs(&settings(), &load);
        let of_keys = costs(&settings(), &Load { keys: 1_000.0, ..load.clone() });

        // An envelope of 700 bytes is 936 in base64, and a line of 1386 bytes is 346.5 in the object.
        // 7 MiB hold 21183.4 of them: 0.04721 objects/s x 2628000 / 1000 x 0.005.
        assert!((of_bytes[1] - 0.620_3).abs() < 1e-4, "{of_bytes:?}");
        // 1000 x 346.5 x 2628000 / 2^30 x 0.02.
        assert!((of_bytes[2] - 16.961_3).abs() < 1e-4, "{of_bytes:?}");
        assert!((of_bytes[0] - 95.606).abs() < 1e-3, "{of_bytes:?}");
        // 1000 keys have an object of 60 messages each minute: 16.67 objects/s x 2628 x 0.005.
        assert!((of_keys[1] - 219.0).abs() < 1e-2, "{of_keys:?}");
        assert_eq!([of_keys[0], of_keys[2]], [of_bytes[0], of_bytes[2]]);
    }

    #[test]
    fn the_limit_that_an_object_reaches_first_decides_its_messages() {
        let messages = |change: fn(&mut Settings), keys: f64| {
            let mut settings = settings();
            change(&mut settings);
            let load = Load { compression: Some(4.0), keys, ..Load::new(1_000.0, 300.0) };
            let items = of(&settings, &load, &Prices::built_in());
            (1_000.0 / items[1].factors[0].value).round()
        };

        assert_eq!(messages(|_| {}, 1.0), 21_183.0, "bytes");
        assert_eq!(messages(|_| {}, 100.0), 600.0, "age");
        assert_eq!(messages(|s| s.pipeline.batch.max_messages = 500, 100.0), 500.0, "messages");
        // 1 MiB holds 1107 messages of 946.5 bytes; 100 open objects are half full.
        assert_eq!(messages(|s| s.pipeline.max_batch_memory = 1 << 20, 100.0), 22.0, "memory");
        assert_eq!(messages(|s| s.pipeline.lanes = 4, 100.0), 150.0, "each lane has its own");
    }

    #[test]
    fn twice_the_rate_costs_about_twice() {
        let (settings, prices) = (settings(), Prices::built_in());
        for keys in [1.0, 50.0, 20_000.0] {
            for rate in [0.5, 30.0, 4_000.0, 200_000.0] {
                let load = |rate| Load { keys, ..Load::new(rate, 300.0) };
                let cost = |rate| sum(&of(&settings, &load(rate), &prices));
                let ratio = cost(2.0 * rate) / cost(rate);
                // Objects that are written for their age become larger, and not more.
                assert!((1.0..=2.0 + 1e-9).contains(&ratio), "{keys} keys, {rate}/s: {ratio}");
                let is_bound_by_age = rate * 60.0 < 25_000.0 * keys;
                assert!(is_bound_by_age || ratio > 1.999, "{keys} keys, {rate}/s: {ratio}");
            }
        }
    }

    #[test]
    fn the_assumed_ratio_is_said_to_be_one() {
        let items = of(&settings(), &Load::new(1.0, 300.0), &Prices::built_in());

        assert!(items[2].note.contains("assumed to be 3.5 times"), "{}", items[2].note);
    }

    #[test]
    fn each_store_has_the_items_that_it_is_billed_for() {
        let items = |change: fn(&mut Settings)| {
            let mut settings = settings();
            change(&mut settings);
            of(&settings, &Load::new(1_000.0, 300.0), &Prices::built_in())
        };
        let names = |items: &[Item]| items.iter().map(|item| item.name).collect::<Vec<_>>();

        let bucket = items(|s| s.storage.bucket = "b".into());
        let folder = items(|s| s.storage.folder = Some("/f".into()));
        let s3 = items(|s| s.storage.s3 = Some(storage::S3Settings::default()));

        assert_eq!(names(&folder), ["Pub/Sub: delivery"]);
        let of_google = ["Pub/Sub: delivery", "Cloud Storage: objects", "Cloud Storage: storage"];
        assert_eq!(names(&bucket), of_google);
        assert_eq!(names(&s3), ["Pub/Sub: delivery", "S3: objects", "S3: storage"]);
        assert_eq!(sum(&s3), sum(&bucket));
        let is_told = |item: &Item| item.note.ends_with("; the price is that of Cloud Storage");
        assert!(s3[1..].iter().all(is_told), "{s3:?}");
        assert!(!bucket.iter().any(is_told), "{bucket:?}");
    }
}
