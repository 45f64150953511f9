//! Test of the column types of BigQuery: each type has a table of its own, so that a refused type
//! does not hold the others back.

use bigqueries::Bigqueries;
use bigqueries::config::{Settings, TableSettings};
use futures::future::join_all;
use message::FieldPath;
use message::field_path::Pointer;
use rows::column::{Column, Mode, Type};
use serde_json::{Map, Value, json};
use service::Hosted;
use tokio::time::{sleep, timeout};

use super::report;
use crate::flow_env::{FlowEnv, GRACE, counter, patience};
use e2e::metrics::SENT;
use e2e::names::RAW;

/// Case of one type.
struct Case {
    /// Type of the column `value`, and of `fallback` if there is a default.
    of: &'static str,
    /// Value in the payload of the message.
    value: Value,
    /// Condition that holds in the table if the value has arrived unchanged.
    holds: &'static str,
    /// Default of the column `fallback`, whose value is missing; empty for no such column.
    default: &'static str,
}

fn case(of: &'static str, value: Value, holds: &'static str, default: &'static str) -> Case {
    Case { of, value, holds, default }
}

fn cases() -> Vec<Case> {
    let span = "CAST(value AS STRING) = '1-2 3 4:5:6.5'";
    vec![
        case("STRING", json!("warm"), "value = 'warm'", "'none'"),
        case("BYTES", json!("AP8="), "TO_BASE64(value) = 'AP8='", ""),
        case("INT64", json!(9_007_199_254_740_993_i64), "value = 9007199254740993", "7"),
        case("FLOAT64", json!(21.5), "value = 21.5", "0.5"),
        case("BOOL", json!(true), "value", "TRUE"),
        case("NUMERIC", json!("1.5"), "value = NUMERIC '1.5'", "NUMERIC '2.5'"),
        case("BIGNUMERIC", json!("1.5"), "value = BIGNUMERIC '1.5'", "BIGNUMERIC '2.5'"),
        case(
            "TIMESTAMP",
            json!("2025-06-15T10:30:00.123456Z"),
            "value = TIMESTAMP '2025-06-15 10:30:00.123456+00:00'",
            "TIMESTAMP '2025-01-01 00:00:00+00:00'",
        ),
        case("DATE", json!("2025-06-15"), "value = DATE '2025-06-15'", "DATE '2025-01-01'"),
        case("TIME", json!("10:30:00.123456"), "value = TIME '10:30:00.123456'", "TIME '01:02:03'"),
        case(
            "DATETIME",
            json!("2025-06-15 10:30:00.123456"),
            "value = DATETIME '2025-06-15 10:30:00.123456'",
            "DATETIME '2025-01-01 00:00:00'",
        ),
        case("JSON", json!({ "a": 1 }), "JSON_VALUE(value, '$.a') = '1'", "JSON '{\"a\":1}'"),
        case("GEOGRAPHY", json!("POINT(13.5 52.5)"), "ST_ASTEXT(value) = 'POINT(13.5 52.5)'", ""),
        case("INTERVAL", json!("P1Y2M3DT4H5M6.5S"), span, ""),
        case(
            "RANGE<DATE>",
            json!("[2025-01-01, UNBOUNDED)"),
            "RANGE_START(value) = DATE '2025-01-01' AND RANGE_END(value) IS NULL",
            "",
        ),
        case(
            "RANGE<DATETIME>",
            json!("[2025-01-01 00:00:00, UNBOUNDED)"),
            "RANGE_START(value) = DATETIME '2025-01-01 00:00:00'",
            "",
        ),
        case(
            "RANGE<TIMESTAMP>",
            json!({ "end": "2025-01-01T00:00:00Z" }),
            "RANGE_END(value) = TIMESTAMP '2025-01-01 00:00:00+00:00'",
            "",
        ),
        case("RECORD", json!({ "a": 1 }), "value.a = 1", ""),
        case("ARRAY", json!([1, 2]), "ARRAY_LENGTH(value) = 2", ""),
    ]
}

impl Case {
    /// Returns the name of its table, of its subscription, and of its field in the payload.
    fn name(&self) -> String {
        self.of.to_ascii_lowercase().replace(['<', '>'], "_")
    }

    fn columns(&self) -> Vec<Column> {
        let value = match self.of {
            "ARRAY" => Column::new("value", of("INT64")).with_mode(Mode::Repeated),
            "RECORD" => Column::record("value", vec![Column::new("a", of("INT64"))]),
            other => Column::new("value", of(other)),
        };
        let from = Some(FieldPath::Payload(Pointer::to(self.name())));
        let mut columns = vec![Column { from, ..value }];
        if !self.default.is_empty() {
            let default = Some(self.default.to_owned());
            columns.push(Column { default, ..Column::new("fallback", of(self.of)) });
        }
        columns
    }

    fn settings(&self, env: &FlowEnv) -> Settings {
        let mut settings = env.bigqueries();
        settings.intake.subscription.id = env.cloud.name(&self.name()).into();
        settings.table = TableSettings {
            id: self.name(),
            columns: self.columns(),
            // No other column may be the reason of a refusal.
            metadata_columns: false,
            rest_column: String::new(),
            ..settings.table
        };
        settings
    }

    /// Counts the rows with the right values.
    async fn count(&self, env: &FlowEnv) -> anyhow::Result<String> {
        let fallback = match self.of {
            _ if self.default.is_empty() => "TRUE".to_owned(),
            "JSON" => "JSON_VALUE(fallback, '$.a') = '1'".to_owned(),
            _ => format!("fallback = {}", self.default),
        };
        let count = async |holds: &str| {
            let table = format!("{}.{}", env.cloud.dataset(), self.name());
            let query = format!("SELECT COUNT(*) FROM {table} WHERE {holds} AND {fallback}");
            env.cloud.query(&query).await
        };
        let rows = match count(self.holds).await {
            // The embedded cloud does not have every function.
            Err(why) if env.server.is_some() && format!("{why:#}").contains("does not support") => {
                count("value IS NOT NULL").await?
            }
            rows => rows?,
        };
        Ok(rows[0][0].as_str().unwrap().to_owned())
    }
}

fn of(text: &str) -> Type {
    text.parse().unwrap()
}

/// Writes the message as a row of the type. Returns the reason if that does not succeed.
async fn write(env: &FlowEnv, case: &Case) -> Result<(), String> {
    let service = Bigqueries::new(case.settings(env));
    let hosted = Hosted::start(service).await.map_err(|why| format!("{why:#}"))?;
    let sent = timeout(patience(), sent(&hosted)).await;
    let conditions = format!("{:?}", hosted.health().conditions());
    let ended = hosted.shutdown(GRACE).await;
    match sent {
        Ok(true) => ended.map_err(|why| format!("{why:#}")),
        Ok(false) => Err(format!("refused: {conditions}, {ended:?}")),
        Err(_) => Err(format!("no row in {:?}: {conditions}", patience())),
    }
}

/// Waits for the row. Returns false if it becomes a dead letter, or if the service fails.
async fn sent(hosted: &Hosted) -> bool {
    const DEAD_LETTERED: &str = "dataflow_pipeline_dead_lettered_messages_total";
    while counter(hosted, SENT) == 0 {
        if counter(hosted, DEAD_LETTERED) > 0 || hosted.health().dead().is_some() {
            return false;
        }
        sleep(std::time::Duration::from_millis(50)).await;
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn the_storage_write_api_takes_every_type_and_literal_default() {
    let env = FlowEnv::start().await;
    let cases = cases();
    let raw = env.cloud.name(RAW);
    let subscriptions: Vec<_> = cases.iter().map(|case| env.cloud.name(&case.name())).collect();
    for subscription in &subscriptions {
        env.cloud.create_subscription(subscription, &raw).await.unwrap();
    }
    let payload: Map<_, _> = cases.iter().map(|case| (case.name(), case.value.clone())).collect();
    let payload = Value::from(payload).to_string();
    env.cloud.publish(&raw, payload.as_bytes(), json!({ "ingest_id": "i-1" })).await.unwrap();

    let written = join_all(cases.iter().map(|case| write(&env, case))).await;

    let mut refused = Vec::new();
    for (case, written) in cases.iter().zip(written) {
        let found = match written {
            Ok(()) => case.count(&env).await.map_err(|why| format!("{why:#}")),
            Err(why) => Err(why),
        };
        match found.as_deref() {
            Ok("0") => refused.push(format!("{}: another value arrives", case.of)),
            // Pub/Sub may have delivered the message twice.
            Ok(_) => report(&format!("{} arrives by Arrow", case.of)),
            Err(why) => refused.push(format!("{}: {why}", case.of)),
        }
    }
    let subscriptions: Vec<_> = subscriptions.iter().map(String::as_str).collect();
    env.cloud.teardown(&[], &subscriptions, &[]).await.unwrap();
    assert!(refused.is_empty(), "{}", refused.join("\n"));
    env.teardown().await;
}
