//! Benchmarks of the steps that every message passes through: `cargo bench -p bench`.

#![expect(clippy::unwrap_used, reason = "a failed step ends the benchmark")]
#![expect(missing_docs, reason = "criterion's macro makes a function")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

use bigqueries::table::{Table, TableName};
use bigqueries::transform::ToRow;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use e2e::reading::Reading;
use enrich::cache::settings::LookupSettings;
use enrich::cache::{Document, Fetch, LayerError, Lookup};
use icestore::archive::{Archive, Line};
use icestore::format::Format;
use icestore::key::{BatchKey as _, Template};
use ingestion::config::RouteSettings;
use ingestion::routes::Routes;
use message::envelope::Input;
use message::{Envelope, FieldPath, Message, Origin};
use pipeline::hops::Hops;
use pipeline::{Sink as _, Step, Transform as _};
use rows::Mapped;
use rows::column::{Column, Kind};
use serde_json::{Map, Value};
use time::OffsetDateTime;
use tokio::runtime::Runtime;

/// Rows of a request, and lines of an object, in these benchmarks.
const BATCH: u64 = 500;

fn envelope(number: u64) -> Envelope {
    let reading = Reading { device: 7, number };
    let enrichment: Map<String, Value> = [
        ("DeviceID", reading.device_name()),
        ("Timestamp", "2026-11-21T12:00:00Z".into()),
        ("Topic", reading.topic("devices")),
        ("location", reading.location()),
    ]
    .map(|(key, value)| (key.to_owned(), value.into()))
    .into_iter()
    .collect();
    Envelope {
        id: "01932f5e-7c1d-7000-8000-000000000000".into(),
        payload: Some(reading.payload("bench", 1024).into()),
        publish_time: Some(OffsetDateTime::UNIX_EPOCH),
        enrichment,
    }
}

fn message(number: u64) -> Message {
    let mut message = Message::new(envelope(number).to_bytes());
    message.id = number.to_string();
    for (name, value) in [("device_id", "device-00007"), ("ingest_id", "01932f5e")] {
        message.attributes.insert(name.into(), value.into());
    }
    message
}

fn envelopes(criterion: &mut Criterion) {
    let (envelope, message) = (envelope(1), message(1));
    let mut group = criterion.benchmark_group("envelope");
    group.throughput(Throughput::Bytes(message.data.len() as u64));
    group.bench_function("write", |bench| bench.iter(|| black_box(&envelope).to_bytes()));
    group.bench_function("read", |bench| bench.iter(|| Envelope::read(black_box(&message.data))));
    group.finish();
}

fn routes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route");
    for count in [1, 100, 1000] {
        let all: BTreeMap<_, _> = (0..count)
            .map(|number| {
                let mut route = RouteSettings::default();
                route.source.mqtt_topic = format!("plants/{number}/{{line}}/+/up").into();
                (number.to_string(), route)
            })
            .collect();
        let routes = Routes::new(&all).unwrap();
        let topic = format!("plants/{}/a/b/up", count - 1);
        group.bench_function(format!("match one of {count}"), |bench| {
            bench.iter(|| routes.find(Origin::mqtt(black_box(&topic))).is_some());
        });
    }
    group.finish();
}

fn keys(criterion: &mut Criterion) {
    let template = Template::DEFAULT.parse::<Template>().unwrap();
    let (message, envelope) = (message(1), envelope(1));
    criterion.bench_function("template", |bench| {
        bench.iter(|| template.key(black_box(&message), black_box(&envelope)));
    });
}

fn archive(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let template = Template::DEFAULT.parse::<Template>().unwrap();
    let archive = Archive::new(template, Input::Auto);
    let line = |number| match runtime.block_on(archive.apply(&message(number))).unwrap() {
        Step::Pass(line) => line,
        Step::Skip(why) => panic!("skipped: {why}"),
    };
    let endpoint =
        storage::Endpoint { endpoint: Some("http://127.0.0.1:1".into()), ..<_>::default() };
    let bucket = runtime.block_on(storage::Bucket::new("bucket", &endpoint)).unwrap();
    let one = message(1);
    let mut group = criterion.benchmark_group("archive");
    group.bench_function("line", |bench| {
        bench.iter(|| futures::executor::block_on(archive.apply(black_box(&one))).is_ok());
    });
    group.throughput(Throughput::Elements(BATCH));
    for format in Format::ALL {
        let settings = icestore::config::ArchiveSettings { format, ..<_>::default() };
        let sink = icestore::sink::Sink::new(bucket.clone(), &settings);
        group.bench_function(format!("grow and close a group, {}", format.suffix()), |bench| {
            let mut scratch = sink.scratch();
            let lines = || (0..BATCH).map(line).collect::<Vec<Line>>();
            let grow = |lines: Vec<Line>| {
                let mut batch = sink.open(&lines[0].key.clone());
                for line in lines {
                    assert!(sink.push(&mut batch, line, &mut scratch).is_ok());
                }
                sink.encode(batch, &mut scratch)
            };
            bench.iter_batched(lines, grow, BatchSize::LargeInput);
        });
    }
    group.finish();
}

fn rows(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let column = |name: &str, kind, from: &str| Column {
        from: Some(from.parse::<FieldPath>().unwrap()),
        ..Column::new(name, kind)
    };
    let columns = [
        column("device_id", Kind::String, "attribute.device_id"),
        column("location", Kind::String, "enrichment.location"),
        column("number", Kind::Int64, "/number"),
        column("temperature", Kind::Float64, "/temperature"),
    ];
    let rows = Mapped::new(&columns, true, Some("rest"));
    let all: Arc<[Column]> = rows::Rows::columns(&rows).into();
    let name = || "x".to_owned();
    let table = || TableName { project: name(), dataset: name(), table: name() };
    let transform = ToRow::new(rows, Arc::clone(&all), table(), Input::Auto);
    let endpoint = bigqueries::client::Endpoint {
        endpoint: Some("http://127.0.0.1:1".into()),
        ..<_>::default()
    };
    let client = runtime.block_on(bigqueries::client::rest(&endpoint)).unwrap();
    let table = Table::new(client, table(), all, bigqueries::config::TableSettings::default());
    let sink = bigqueries::sink::Sink::storage_write(&endpoint, table);
    let sink = runtime.block_on(sink).unwrap();
    let record = |number| match runtime.block_on(transform.apply(&message(number))).unwrap() {
        Step::Pass(record) => record,
        Step::Skip(why) => panic!("skipped: {why}"),
    };
    let one = message(1);
    let mut group = criterion.benchmark_group("row");
    group.bench_function("convert", |bench| {
        bench.iter(|| futures::executor::block_on(transform.apply(black_box(&one))).is_ok());
    });
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("grow an Arrow batch", |bench| {
        let grow = |records: Vec<_>| {
            let mut batch = sink.open(&());
            for record in records {
                assert!(sink.push(&mut batch, record, &mut ()).is_ok());
            }
            sink.encode(batch, &mut ())
        };
        bench.iter_batched(|| (0..BATCH).map(record).collect(), grow, BatchSize::LargeInput);
    });
    group.finish();
}

/// Source that has a document for every key.
struct Source;

impl Fetch for Source {
    async fn fetch(&self, keys: &[Arc<str>]) -> Result<Vec<Option<Document>>, LayerError> {
        Ok(keys.iter().map(|_| Some(Document::default())).collect())
    }

    fn origin(&self) -> String {
        "bench".into()
    }
}

fn cache(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let metrics = enrich::metrics::Metrics::default();
    let (lookup, reader) = Lookup::new(&LookupSettings::default(), Source, metrics).unwrap();
    let _reader = runtime.spawn(reader);
    runtime.block_on(lookup.document("device-00007")).unwrap();
    criterion.bench_function("cache hit", |bench| {
        bench.iter(|| {
            let hit = lookup.document(black_box("device-00007"));
            futures::executor::block_on(hit).is_ok()
        });
    });
}

/// Cost of the hooks for viewers, for each message and step.
fn hops(criterion: &mut Criterion) {
    let hops = Hops::default();
    let mut group = criterion.benchmark_group("hops");
    group.bench_function("nobody watches", |bench| bench.iter(|| black_box(&hops).is_watched()));
    group.finish();
}

criterion_group!(pieces, envelopes, routes, keys, archive, rows, cache, hops);
criterion_main!(pieces);
