//! Property tests with hostile input: no decoder panics, and none uses unbounded memory. Cases that
//! failed once are kept in `hostile.proptest-regressions`.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bigqueries::table::TableName;
use bigqueries::transform::ToRow;
use emulator::{Emulator, Options};
use enrich::apply::{Apply as _, Fields};
use enrich::key::{FirstOf, Key as _};
use icestore::archive::Archive;
use icestore::key::Template;
use ingestion::config::RouteSettings;
use ingestion::routes::Routes;
use message::attribute;
use message::envelope::Input;
use message::{Envelope, FieldPath, Message, Origin};
use pipeline::Transform as _;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use reqwest::Method;
use rows::Mapped;
use rows::column::{Column, Kind, Mode};
use serde_json::{Map, Value, json};
use service::Settings;
use service::tools::explain::Explains as _;
use tokio::runtime::Runtime;

/// Generates numbers and times at the edges of types and calendars. Numbers appear as numbers and
/// as text.
fn edges() -> BoxedStrategy<Value> {
    let zone = (prop_oneof![Just("+"), Just("-")], 0..24, 0..60)
        .prop_map(|(sign, hour, minute)| format!("{sign}{hour:02}:{minute:02}"));
    let zone = prop_oneof![Just("Z".to_owned()), zone];
    let time =
        (prop_oneof![Just(0), Just(1), Just(9998), Just(9999), 0..10_000], any::<bool>(), zone)
            .prop_map(|(year, is_start, zone)| match is_start {
                true => format!("{year:04}-01-01T00:00:00{zone}"),
                false => format!("{year:04}-12-31T23:59:59.999999999{zone}"),
            });
    let around = |edge: i128| (edge - 2..=edge + 2).prop_map(|number| number.to_string());
    let number = prop_oneof![
        around(i128::from(i32::MAX)),
        around(i128::from(i32::MIN)),
        around(i128::from(i64::MAX)),
        around(i128::from(i64::MIN)),
        around(i128::from(u64::MAX)),
        // The first and the last year in seconds, milliseconds and microseconds.
        around(-62_135_596_800),
        around(253_402_300_800),
        around(-62_135_596_800_000),
        around(253_402_300_800_000),
        (
            any::<bool>(),
            prop_oneof![around(308), around(i128::from(i32::MAX)), around(i128::from(i32::MIN))]
        )
            .prop_map(|(is_negative, exponent)| {
                format!("{}1e{exponent}", if is_negative { "-" } else { "" })
            }),
    ];
    prop_oneof![
        time.prop_map(Value::from),
        number.clone().prop_map(Value::from),
        number.prop_map(|number| serde_json::from_str(&number).unwrap_or(Value::Null)),
    ]
    .boxed()
}

/// Generates any JSON, some of it deeply nested.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        edges().prop_map(Value::from),
        // Text that looks similar to times, dates and numbers.
        "[0-9T:.Ze+-]{0,30}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            btree_map("[a-c./]{0,3}", inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Generates data of messages: bytes, JSON, envelopes, and damaged envelopes. These have a part of
/// the wrong type, or are cut off.
fn data() -> BoxedStrategy<Vec<u8>> {
    let envelope = (json(), json(), json(), json()).prop_map(|(id, payload, time, enrichment)| {
        let parts = [
            ("id", id),
            ("payload", payload),
            ("publishTime", time),
            ("enrichmentData", enrichment),
        ];
        let parts = parts.map(|(key, value)| (key.to_owned(), value));
        Value::Object(Map::from_iter(parts)).to_string().into_bytes()
    });
    let parts = (json(), vec(any::<u8>(), 0..60), json(), any::<i32>());
    let whole = parts.prop_map(|(payload, bytes, more, time_seed)| {
        let payload = if bytes.len() % 2 == 0 {
            payload.to_string().into_bytes().into()
        } else {
            bytes.into()
        };
        let enrichment = more.as_object().cloned().unwrap_or_default();
        // From the year -9999 to the year 9999.
        let seconds = i64::from(time_seed) * 147;
        let time = time::OffsetDateTime::from_unix_timestamp(seconds);
        let time = time.unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
        let (id, publish_time, payload) = ("1".into(), Some(time), Some(payload));
        Envelope { id, payload, publish_time, enrichment }.to_bytes().to_vec()
    });
    let whole = whole.boxed();
    let edge = (edges(), edges());
    let edge = edge.prop_map(|(time, value)| {
        let payload = base64::Engine::encode(
            &base64::engine::general_purpose::STANDARD,
            json!({ "a": value }).to_string(),
        );
        let envelope = json!({ "id": "1", "payload": payload, "publishTime": time });
        envelope.to_string().into_bytes()
    });
    let raw_edge = edges().prop_map(|value| json!({ "a": value }).to_string().into_bytes());
    prop_oneof![
        edge,
        raw_edge,
        vec(any::<u8>(), 0..200),
        json().prop_map(|value| value.to_string().into_bytes()),
        envelope,
        whole.clone(),
        (whole, any::<usize>()).prop_map(|(mut data, at)| {
            data.truncate(at % (data.len() + 1));
            data
        }),
    ]
    .boxed()
}

fn message() -> impl Strategy<Value = Message> {
    let attributes = btree_map("(device_id|ingest_id|mqtt_topic|[a-z]{0,4})", ".{0,20}", 0..5);
    (data(), attributes).prop_map(|(data, attributes)| {
        let mut message = Message::new(data);
        message.attributes.extend(attributes);
        message
    })
}

fn column() -> impl Strategy<Value = Column> {
    let kinds = [
        Kind::String,
        Kind::Bytes,
        Kind::Int64,
        Kind::Float64,
        Kind::Bool,
        Kind::Timestamp,
        Kind::Date,
        Kind::Time,
        Kind::Datetime,
        Kind::Numeric,
        Kind::Bignumeric,
        Kind::Json,
        Kind::Record,
    ];
    let modes = [Mode::Nullable, Mode::Required, Mode::Repeated];
    let from = "(/[a-c]?(/[a-c0-2])?|enrichment\\.[a-c]|attribute\\.[a-c])";
    let parts = (0..kinds.len(), 0..modes.len(), from, 0..kinds.len() - 1);
    parts.prop_map(move |(kind, mode, from, field)| {
        let mut column = Column::new("column", kinds[kind]);
        column.mode = modes[mode];
        column.from = from.parse::<FieldPath>().ok();
        if kinds[kind] == Kind::Record {
            column.fields = vec![Column::new("a", kinds[field]), Column::new("b", Kind::Json)];
        }
        column
    })
}

/// Generates lines of the example settings in any order, some with another value.
fn yaml(example: &'static str) -> impl Strategy<Value = String> {
    let lines: Vec<&str> = example.lines().collect();
    let value = prop_oneof![
        Just(None),
        "[ -~]{0,20}".prop_map(Some),
        "-?[0-9]{1,30}(s|d|h|kB)?".prop_map(Some),
        Just(Some("{a: [1, {b: c}]}".into())),
    ];
    vec((0..lines.len(), value), 0..60).prop_map(move |picks| {
        let line = |(index, value): (usize, Option<String>)| match (lines[index], value) {
            (line, Some(value)) if line.contains(':') => {
                let key = line.split(':').next().unwrap_or_default();
                format!("{key}: {value}")
            }
            (line, _) => line.to_owned(),
        };
        picks.into_iter().map(line).collect::<Vec<_>>().join("\n")
    })
}

fn load<T: Settings>(text: &str) -> Result<T, service::Faults> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    service::settings::load(Some(file.path()), [])
}

type ThreeSettings =
    (ingestion::config::Settings, bigqueries::config::Settings, icestore::config::Settings);

/// Example settings, with an event time and a column of every type that are read from the payload.
static SETTINGS: LazyLock<ThreeSettings> = LazyLock::new(|| {
    let mut ingestion: ingestion::config::Settings =
        load(include_str!("../../services/ingestion/example.yaml")).unwrap();
    ingestion.identity.event_time_pointer = Some("/a".into());
    ingestion.identity.id_pointer = Some("/b".into());
    let mut bigqueries: bigqueries::config::Settings =
        load(include_str!("../../services/bigqueries/example.yaml")).unwrap();
    let column = |(index, kind)| {
        let mut column = Column::new(format!("c{index}"), kind);
        column.from = "/a".parse().ok();
        column
    };
    let kinds = [Kind::Timestamp, Kind::Date, Kind::Time, Kind::Datetime, Kind::Numeric];
    bigqueries.table.columns = kinds.into_iter().enumerate().map(column).collect();
    let icestore = load(include_str!("../../services/icestore/example.yaml")).unwrap();
    (ingestion, bigqueries, icestore)
});

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(
            proptest::test_runner::FileFailurePersistence::Direct("tests/hostile.proptest-regressions"),
        )),
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_message_becomes_a_row_or_is_refused(
        message in message(),
        columns in vec(column(), 0..5),
    ) {
        let all: Arc<[Column]> = columns.clone().into();
        let name = || "x".to_owned();
        let table = TableName { project: name(), dataset: name(), table: name() };
        let rows = ToRow::new(Mapped::new(&all, false, None), all, table, Input::Auto);

        let outcome = futures::executor::block_on(rows.apply(&message));

        // `Stop` is wrong here: one message would stop the service.
        if let Err(error) = outcome {
            prop_assert!(matches!(error.recovery(), pipeline::Recovery::Reject(_)), "{error}");
        }
    }

    #[test]
    fn any_message_has_a_key_and_takes_any_document(
        message in message(),
        places in vec("(/[a-c]?|enrichment\\.[a-z]{1,4}|attribute\\.[a-z]{1,4})", 1..4),
        document in json(),
    ) {
        let places = places.iter().filter_map(|place| place.parse().ok()).collect();
        let Ok(mut envelope) = Envelope::of(&message, Input::Auto) else { return Ok(()) };
        let id = envelope.id.clone();

        let _key = FirstOf::new(places).key(&message, &envelope);
        let fields = BTreeMap::from([("name".to_owned(), "a.b".to_owned())]);
        let document = document.as_object().cloned().unwrap_or_default();
        Fields::new(fields).apply(&document.into_iter().collect(), &mut envelope);

        prop_assert_eq!(Envelope::read(&envelope.to_bytes()).map(|read| read.id), Some(id));
    }

    #[test]
    fn any_message_becomes_a_line_below_its_prefix(
        message in message(),
        template in "[a-z]?(\\{(yyyy|device_id|location|/a|[a-c])\\}|\\[/\\{location\\}\\]|[./a]){0,5}",
    ) {
        let Ok(template) = template.parse::<Template>() else { return Ok(()) };
        let archive = Archive::new(template, Input::Auto);

        if let Ok(pipeline::Step::Pass(line)) = futures::executor::block_on(archive.apply(&message)) {
            let is_outside = line.key.split('/').any(|part| part == "..");
            prop_assert!(!is_outside, "{}", line.key);
            prop_assert!(serde_json::from_slice::<Value>(&line.bytes).is_ok());
        }
    }

    #[test]
    fn any_message_is_explained(message in message(), topic in "devices/[a-z]{0,3}/up|.{0,20}") {
        let mut of_mqtt = message.clone();
        of_mqtt.attributes.insert(attribute::MQTT_TOPIC.into(), topic);
        let (ingestion, bigqueries, icestore) = &*SETTINGS;

        let stories = [
            futures::executor::block_on(Box::pin(ingestion::tools::explain::story(ingestion, of_mqtt))).unwrap(),
            futures::executor::block_on(Box::pin(bigqueries.story(&message))).unwrap(),
            futures::executor::block_on(Box::pin(icestore.story(&message))).unwrap(),
        ];

        for story in stories {
            prop_assert!(story.contains_key("outcome"), "{story:?}");
        }
    }

    #[test]
    fn any_topic_finds_one_of_its_routes_or_none(
        filters in vec("[a-b#+/{}$]{0,12}", 0..8),
        topic in "[a-b/$]{0,12}|.{0,40}",
        template in "[{}a-c]{0,12}",
    ) {
        let routes = filters.into_iter().enumerate().map(|(index, filter)| {
            let mut route = RouteSettings::default();
            route.source.mqtt_topic = filter.into();
            (index.to_string(), route)
        });
        let right = routes.filter(|(_, route)| route.source.filter().is_ok());
        let routes = Routes::new(&right.collect()).unwrap();

        if let Some(entry) = routes.find(Origin::mqtt(&topic)) {
            let _filled = entry.filter.template(&template).fill(&topic);
            prop_assert!(entry.filter.captured(&topic).count() <= topic.split('/').count());
        }
    }

    #[test]
    fn any_settings_are_taken_or_refused(
        ingestion in yaml(include_str!("../../services/ingestion/example.yaml")),
        enrich in yaml(include_str!("../../services/enrich/example.yaml")),
        bigqueries in yaml(include_str!("../../services/bigqueries/example.yaml")),
        icestore in yaml(include_str!("../../services/icestore/example.yaml")),
        noise in ".{0,200}",
    ) {
        let refused = [
            load::<ingestion::config::Settings>(&ingestion).err(),
            load::<enrich::config::Settings>(&enrich).err(),
            load::<bigqueries::config::Settings>(&bigqueries).err(),
            load::<icestore::config::Settings>(&icestore).err(),
            load::<icestore::config::Settings>(&noise).err(),
        ];

        for faults in refused.into_iter().flatten() {
            prop_assert!(!faults.lines().is_empty(), "a refusal says why");
        }
    }
}

#[test]
fn settings_that_multiply_themselves_are_refused_soon() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..30 {
        let below = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb += &format!("a{level}: &a{level} [{below}]\n");
    }
    let deep = "[".repeat(100_000);
    let started = Instant::now();

    assert!(load::<icestore::config::Settings>(&bomb).is_err());
    assert!(load::<icestore::config::Settings>(&deep).is_err());

    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
}

#[test]
fn enrich_explains_any_message() {
    let target = Target::start();
    let mut settings: enrich::config::Settings =
        load(include_str!("../../services/enrich/example.yaml")).unwrap();
    settings.firestore.endpoint = Some(target.emulator.url().into());
    settings.cache.redis.url = None;
    let cases = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) };
    let mut runner = proptest::test_runner::TestRunner::new(cases);

    runner
        .run(&message(), |message| {
            let story = target.runtime.block_on(settings.story(&message));
            let story = story.map_err(|error| TestCaseError::fail(format!("{error:#}")))?;
            prop_assert!(story.contains_key("outcome"), "{story:?}");
            Ok(())
        })
        .unwrap();
}

/// Paths of all APIs, with `NAME` in place of names.
const PATHS: [&str; 14] = [
    "/v1/projects/local/topics/NAME",
    "/v1/projects/local/topics/topic:publish",
    "/v1/projects/local/subscriptions/NAME",
    "/v1/projects/local/subscriptions/reader:pull",
    "/v1/projects/local/subscriptions/reader:acknowledge",
    "/v1/projects/local/subscriptions/reader:modifyAckDeadline",
    "/bigquery/v2/projects/local/datasets/NAME",
    "/bigquery/v2/projects/local/datasets/d/tables",
    "/bigquery/v2/projects/local/datasets/d/tables/t/insertAll",
    "/bigquery/v2/projects/local/queries",
    "/storage/v1/b/bucket/o/NAME",
    "/upload/storage/v1/b/bucket/o?uploadType=multipart&name=NAME",
    "/upload/storage/v1/b/bucket/o?uploadType=resumable&name=NAME",
    "/emulator/v1/faults",
];

/// Methods that take one message or a stream of messages.
const CALLS: [&str; 8] = [
    "google.pubsub.v1.Publisher/Publish",
    "google.pubsub.v1.Publisher/CreateTopic",
    "google.pubsub.v1.Subscriber/StreamingPull",
    "google.pubsub.v1.Subscriber/ModifyAckDeadline",
    "google.firestore.v1.Firestore/BatchGetDocuments",
    "google.firestore.v1.Firestore/Commit",
    "google.cloud.bigquery.storage.v1.BigQueryWrite/AppendRows",
    "google.cloud.bigquery.storage.v1.BigQueryWrite/GetWriteStream",
];

/// A running emulator with one resource of each kind.
struct Target {
    runtime: Runtime,
    emulator: Emulator,
    client: reqwest::Client,
    grpc: reqwest::Client,
}

impl Target {
    fn start() -> Self {
        service::install_crypto();
        let runtime = Runtime::new().unwrap();
        let emulator = runtime.block_on(Emulator::start(Options::default())).unwrap();
        let cloud = e2e::cloud::Cloud::embedded(&emulator.url());
        runtime.block_on(async {
            cloud.create_topic("topic").await.unwrap();
            cloud.create_subscription("reader", "topic").await.unwrap();
            cloud.create_bucket("bucket").await.unwrap();
            cloud.create_dataset("d").await.unwrap();
            cloud.create_table("d", "t", &[("a", "INTEGER"), ("b", "STRING")]).await.unwrap();
        });
        let patience = Duration::from_secs(20);
        let builder = || reqwest::Client::builder().timeout(patience);
        let client = builder().build().unwrap();
        let grpc = builder().http2_prior_knowledge().build().unwrap();
        Self { runtime, emulator, client, grpc }
    }

    /// Sends a request and expects an answer. An answer shows that the task did not panic.
    fn answers(&self, request: reqwest::RequestBuilder) -> Result<reqwest::StatusCode, String> {
        let answer = self.runtime.block_on(async { request.send().await });
        answer.map(|answer| answer.status()).map_err(|error| format!("{error:?}"))
    }
}

#[test]
fn the_emulator_answers_whatever_it_is_sent() {
    let target = Target::start();
    let methods = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    let body = prop_oneof![vec(any::<u8>(), 0..200), json().prop_map(|v| v.to_string().into())];
    let case = (0..methods.len(), 0..PATHS.len(), "[a-z0-9%/._-]{0,20}", body);
    let persistence =
        proptest::test_runner::FileFailurePersistence::Direct("tests/hostile.proptest-regressions");
    let config = || ProptestConfig {
        failure_persistence: Some(Box::new(persistence)),
        ..ProptestConfig::default()
    };
    let mut runner = proptest::test_runner::TestRunner::new(config());

    runner
        .run(&case, |(method, path, name, body)| {
            // An earlier case may have set a delay of years.
            target.emulator.faults().clear();
            let path = PATHS[path].replace("NAME", &name);
            let url = format!("{}{path}", target.emulator.url());
            let request = target.client.request(methods[method].clone(), url).body(body);
            let status = target.answers(request).map_err(TestCaseError::fail)?;
            prop_assert!(status != reqwest::StatusCode::INTERNAL_SERVER_ERROR, "{path}: {status}");
            Ok(())
        })
        .unwrap();
    target.emulator.faults().clear();
    let case = (0..CALLS.len(), any::<bool>(), vec(any::<u8>(), 0..200));
    let mut runner = proptest::test_runner::TestRunner::new(config());
    runner
        .run(&case, |(call, is_framed, bytes)| {
            let mut body = Vec::new();
            if is_framed {
                // Header of a complete frame: the flag for no compression, and the length.
                body.push(0);
                body.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_be_bytes());
            }
            body.extend_from_slice(&bytes);
            let url = format!("{}/{}", target.emulator.url(), CALLS[call]);
            let request = target.grpc.post(url).header("content-type", "application/grpc");
            target.answers(request.body(body)).map_err(TestCaseError::fail)?;
            Ok(())
        })
        .unwrap();
    let alive = target.client.get(target.emulator.url());
    assert_eq!(target.answers(alive), Ok(reqwest::StatusCode::OK));
    assert!(Path::new(target.emulator.data_dir()).is_dir());
}
