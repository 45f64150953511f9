//! Tests of the table: it is created, extended, waited for, or refused.

use std::sync::Arc;
use std::time::Duration;

use bigqueries::config::{self, Partitions, Unit};
use bigqueries::table::{Table, TableName};
use emulator::Fault;
use rows::cell::Cell;
use rows::column::{Column, Kind, Mode};
use serde_json::{Value, json};
use service::{Context, WrongSettings};
use tokio::time::timeout;
use tonic::Code;

use crate::{Cloud, name, settings, write};

#[tokio::test]
async fn a_table_is_created_as_the_settings_say() {
    let cloud = Cloud::start().await;
    let settings = config::TableSettings {
        partition_by: Some(Partitions { column: "at".into(), ..Partitions::default() }),
        cluster_by: vec!["n".into()],
        description: Some("readings".into()),
        labels: [("team".into(), "devices".into())].into(),
        kms_key: Some("projects/p/locations/l/keyRings/r/cryptoKeys/k".into()),
        expires_in: Some(Duration::from_secs(86_400)),
        ..settings()
    };
    let columns = [Column::new("at", Kind::Timestamp), Column::new("n", Kind::Int64)];

    cloud.table(&columns, settings.clone()).await.unwrap();
    cloud.table(&columns, settings.clone()).await.unwrap();

    let url = format!("{}/bigquery/v2/projects/p/datasets/d/tables/t", cloud.emulator.url());
    let table: Value = cloud.http.get(url).send().await.unwrap().json().await.unwrap();
    assert_eq!(table["timePartitioning"], json!({ "field": "at", "type": "DAY" }));
    assert_eq!(table["clustering"]["fields"], json!(["n"]));
    assert_eq!(table["description"], "readings");
    assert_eq!(table["labels"], json!({ "team": "devices" }));
    let key = "projects/p/locations/l/keyRings/r/cryptoKeys/k";
    assert_eq!(table["encryptionConfiguration"], json!({ "kmsKeyName": key }));
    assert!(table["expirationTime"].is_string());
    let other = config::TableSettings { cluster_by: vec!["at".into()], ..settings.clone() };
    let refused = cloud.table(&columns, other).await.unwrap_err();
    assert!(refused.contains("clustered by at, the table is clustered by n"), "{refused}");
    let by_hour = Partitions { column: "at".into(), unit: Unit::Hour, ..Partitions::default() };
    let other = config::TableSettings { partition_by: Some(by_hour), ..settings.clone() };
    let refused = cloud.table(&columns, other).await.unwrap_err();
    assert!(refused.contains("by at (HOUR), the table is partitioned by at (DAY)"), "{refused}");
    let silent = config::TableSettings { partition_by: None, cluster_by: Vec::new(), ..settings };
    cloud.table(&columns, silent).await.unwrap();
}

#[tokio::test]
async fn a_table_that_others_laid_out_is_taken_as_it_is() {
    let cloud = Cloud::start().await;
    let fields = json!([{ "name": "n", "type": "INTEGER" }]);
    let table = json!({ "tableReference": { "tableId": "t" }, "timePartitioning": { "type": "DAY" },
        "schema": { "fields": fields } });
    cloud.post("projects/p/datasets/d/tables", &table).await;
    let columns = [Column::new("n", Kind::Int64)];

    cloud.table(&columns, settings()).await.unwrap();

    let by_column = Partitions { column: "at".into(), ..Partitions::default() };
    let other = config::TableSettings { partition_by: Some(by_column), ..settings() };
    let refused = cloud.table(&columns, other).await.unwrap_err();
    assert!(
        refused.contains("the table is partitioned by the time of ingestion (DAY)"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_table_is_partitioned_by_the_time_of_ingestion() {
    let cloud = Cloud::start().await;
    let by_time = |unit| Partitions { column: "_PARTITIONTIME".into(), unit, ..<_>::default() };
    let with = |unit| config::TableSettings { partition_by: Some(by_time(unit)), ..settings() };
    let columns = [Column::new("n", Kind::Int64)];

    cloud.table(&columns, with(Unit::Hour)).await.unwrap();
    cloud.table(&columns, with(Unit::Hour)).await.unwrap();

    let table = cloud.get("projects/p/datasets/d/tables/t").await;
    assert_eq!(table["timePartitioning"], json!({ "type": "HOUR" }));
    let refused = cloud.table(&columns, with(Unit::Day)).await.unwrap_err();
    assert!(refused.contains("by the time of ingestion (DAY), the table is"), "{refused}");
}

#[tokio::test]
async fn an_expiration_and_a_filter_that_the_table_does_not_have_are_told() {
    let hours = |count: u64| Some(Duration::from_secs(count * 3600));
    let by = |expires_in, require_filter| {
        let by = Partitions { column: "at".into(), expires_in, require_filter, ..<_>::default() };
        config::TableSettings { partition_by: Some(by), ..settings() }
    };
    let columns = [Column::new("at", Kind::Timestamp)];

    for (theirs, accepted, refused) in [
        (
            by(hours(48), Some(true)),
            vec![by(hours(48), Some(true)), by(hours(48), None), by(None, None)],
            vec![
                (
                    by(hours(24), None),
                    "expires_in is 1day, the partitions of the table expire after 2days",
                ),
                (by(None, Some(false)), "require_filter is false, that of the table is true"),
            ],
        ),
        (
            by(None, None),
            vec![by(None, Some(false)), by(None, None)],
            vec![
                (
                    by(hours(24), None),
                    "expires_in is 1day, the partitions of the table never expire",
                ),
                (by(None, Some(true)), "require_filter is true, that of the table is false"),
            ],
        ),
    ] {
        let cloud = Cloud::start().await;
        cloud.table(&columns, theirs).await.unwrap();
        for settings in accepted {
            cloud.table(&columns, settings).await.unwrap();
        }
        for (settings, expected) in refused {
            let refused = cloud.table(&columns, settings).await.unwrap_err();
            assert!(refused.contains(&format!("table.partition_by.{expected}")), "{refused}");
        }
    }
}

/// Returns fields with properties that the service does not know.
fn foreign_fields() -> Value {
    json!([
        { "name": "n", "type": "INTEGER", "mode": "NULLABLE" },
        { "name": "code", "type": "STRING", "mode": "NULLABLE", "maxLength": "10",
          "collation": "und:ci", "dataPolicies": [{ "name": "mask" }] },
        { "name": "price", "type": "NUMERIC", "mode": "NULLABLE", "precision": "10", "scale": "2",
          "roundingMode": "ROUND_HALF_EVEN" },
        { "name": "at", "type": "TIMESTAMP", "mode": "NULLABLE",
          "defaultValueExpression": "CURRENT_TIMESTAMP()" },
        { "name": "r", "type": "RECORD", "mode": "NULLABLE", "fields": [
            { "name": "secret", "type": "STRING", "mode": "NULLABLE", "maxLength": "7",
              "policyTags": { "names": ["tag"] } }] },
    ])
}

#[tokio::test]
async fn added_columns_leave_all_others_as_they_are() {
    let cloud = Cloud::start().await;
    let table =
        json!({ "tableReference": { "tableId": "t" }, "schema": { "fields": foreign_fields() } });
    cloud.post("projects/p/datasets/d/tables", &table).await;
    let new = || Column::new("new", Kind::String);
    let columns = [Column::new("n", Kind::Int64), Column::record("r", vec![new()]), new()];

    cloud.table(&columns, settings()).await.unwrap();

    let url = format!("{}/bigquery/v2/projects/p/datasets/d/tables/t", cloud.emulator.url());
    let table: Value = cloud.http.get(url).send().await.unwrap().json().await.unwrap();
    let mut expected = foreign_fields();
    let added = json!({ "name": "new", "type": "STRING", "mode": "NULLABLE" });
    expected.as_array_mut().unwrap().push(added.clone());
    expected[4]["fields"].as_array_mut().unwrap().push(added);
    assert_eq!(table["schema"]["fields"], expected);
}

#[tokio::test]
async fn a_table_that_was_changed_meanwhile_is_looked_at_again() {
    let cloud = Cloud::start().await;
    cloud.table(&[Column::new("n", Kind::Int64)], settings()).await.unwrap();
    let looks = || {
        let calls = cloud.emulator.faults().calls();
        calls.get("bigquery.tables.get").copied().unwrap_or(0)
    };
    let before = looks();
    cloud.emulator.faults().delay("bigquery.tables.patch", 1, Duration::from_secs(1));
    let more = [Column::new("n", Kind::Int64), Column::new("m", Kind::Int64)];

    let other = async {
        while !cloud.emulator.faults().planned().is_empty() {
            tokio::task::yield_now().await;
        }
        let url = format!("{}/bigquery/v2/projects/p/datasets/d/tables/t", cloud.emulator.url());
        let change = json!({ "description": "changed" });
        let changed = cloud.http.patch(url).json(&change).send().await.unwrap();
        changed.error_for_status().unwrap();
    };
    let (added, ()) = tokio::join!(cloud.table(&more, settings()), other);

    added.unwrap();
    assert_eq!(cloud.rows("SELECT m FROM d.t").await, Vec::<Value>::new());
    assert_eq!(looks(), before + 2, "the change was for the table of before");
}

#[tokio::test]
async fn a_table_may_have_any_name() {
    let cloud = Cloud::start().await;
    let client = bigqueries::client::rest(&cloud.endpoint).await.unwrap();
    let name = TableName { table: "DatasetEvents".into(), ..name() };
    let table = Table::new(client, name, [Column::new("n", Kind::Int64)].into(), settings());
    let condition = Context::default().health.condition("table");

    timeout(Duration::from_secs(20), table.wait(&condition)).await.unwrap().unwrap();

    assert_eq!(cloud.rows("SELECT n FROM d.DatasetEvents").await, Vec::<Value>::new());
}

#[tokio::test]
async fn a_table_that_bigquery_will_never_create_ends_the_wait() {
    let cloud = Cloud::start().await;
    let (reason, message) = (None, Some("Cannot partition by n".into()));
    let kind = emulator::Kind::Refuse { code: 3, retry_after: None, reason, message };
    let method = "bigquery.tables.insert".into();
    cloud.emulator.faults().add(Fault { method, topic: None, count: 1, for_millis: None, kind });

    let refused = cloud.table(&[Column::new("n", Kind::Int64)], settings()).await.unwrap_err();

    assert!(refused.contains("cannot be created: Cannot partition by n"), "{refused}");
}

#[tokio::test]
async fn a_key_that_bigquery_may_not_use_is_told_by_its_setting() {
    let cloud = Cloud::start().await;
    let key = "projects/p/locations/l/keyRings/r/cryptoKeys/k";
    let with_key = config::TableSettings { kms_key: Some(key.into()), ..settings() };
    let columns = [Column::new("n", Kind::Int64)];
    let message = "Access Denied: Cloud KMS: Permission denied on the resource";

    for (settings, expected) in [
        (
            with_key,
            "table p.d.t: it cannot be created with the key of table.kms_key: Access Denied",
        ),
        (settings(), "table p.d.t: it cannot be created: Access Denied"),
    ] {
        let message = Some(message.to_owned());
        let kind = emulator::Kind::Refuse { code: 7, retry_after: None, reason: None, message };
        let method = "bigquery.tables.insert".into();
        cloud.emulator.faults().add(Fault {
            method,
            topic: None,
            count: 1,
            for_millis: None,
            kind,
        });
        let table = cloud.open(&columns, settings).await;
        let health = Context::default().health;
        let condition = health.condition("table");
        let reason = || health.conditions()["table"].reason.clone();
        let told = timeout(Duration::from_secs(20), async {
            while !reason().starts_with(expected) {
                tokio::task::yield_now().await;
            }
        });
        tokio::select! {
            _ = table.wait(&condition) => panic!("there is no table"),
            told = told => told.unwrap_or_else(|_| panic!("{}", reason())),
        }
    }
}

/// Creates another table, and opens it with settings that it does not fit.
async fn different_table(cloud: &Cloud) -> Table {
    let fields = json!([{ "name": "n", "type": "STRING" }]);
    let table = json!({ "tableReference": { "tableId": "other" }, "schema": { "fields": fields } });
    cloud.post("projects/p/datasets/d/tables", &table).await;
    let client = bigqueries::client::rest(&cloud.endpoint).await.unwrap();
    let name = TableName { table: "other".into(), ..name() };
    Table::new(client, name, [Column::new("n", Kind::Int64)].into(), settings())
}

#[tokio::test]
async fn a_table_that_may_not_be_created_now_is_not_asked_for_each_second() {
    let cloud = Cloud::start().await;
    let different = different_table(&cloud).await;
    let table = cloud.open(&[Column::new("n", Kind::Int64)], settings()).await;
    let faults = cloud.emulator.faults();
    faults.refuse("bigquery.tables.insert", u64::MAX, Code::ResourceExhausted);
    let health = Context::default().health;
    let (of_other, condition) = (health.condition("other"), health.condition("table"));
    let reason = || health.conditions()["table"].reason.clone();

    let waiting = timeout(Duration::from_secs(20), async {
        while !reason().contains("table p.d.t: it cannot be created: ") {
            tokio::task::yield_now().await;
        }
        // The other table is looked at each second. So its third look is more than a second later.
        let looks = || faults.calls().get("bigquery.tables.get").copied().unwrap_or(0);
        let before = looks();
        while looks() < before + 3 {
            tokio::task::yield_now().await;
        }
    });
    tokio::select! {
        _ = table.wait(&condition) => panic!("there is no table"),
        () = different.watch(of_other) => {}
        waited = waiting => waited.unwrap_or_else(|_| panic!("{}", reason())),
    }

    assert_eq!(faults.refused()["bigquery.tables.insert"], 1);
}

#[tokio::test]
async fn a_view_takes_no_rows() {
    let cloud = Cloud::start().await;
    cloud.table(&[Column::new("n", Kind::Int64)], settings()).await.unwrap();
    let query = json!({ "query": "SELECT n FROM d.t", "useLegacySql": false });
    let view = json!({ "tableReference": { "tableId": "view" }, "view": query });
    cloud.post("projects/p/datasets/d/tables", &view).await;
    let client = bigqueries::client::rest(&cloud.endpoint).await.unwrap();
    let name = TableName { table: "view".into(), ..name() };
    let table = Table::new(client, name, [Column::new("n", Kind::Int64)].into(), settings());

    let refused = table.wait(&Context::default().health.condition("table")).await.unwrap_err();

    assert!(refused.is::<WrongSettings>());
    assert!(refused.to_string().contains("but a VIEW"), "{refused}");
}

#[tokio::test]
async fn new_columns_are_added_and_other_differences_name_both_sides() {
    let cloud = Cloud::start().await;
    let record = |fields| Column::record("r", fields);
    let n = || Column::new("n", Kind::Int64);
    cloud.table(&[n(), record(vec![n()])], settings()).await.unwrap();

    let more =
        [n(), record(vec![n(), Column::new("m", Kind::String)]), Column::new("x", Kind::Json)];
    cloud.table(&more, settings()).await.unwrap();

    let sink = cloud.sink(config::Api::StorageWrite, &more).await;
    let row = vec![Cell::Int(1), Cell::Record(vec![Cell::Int(2), "m".into()]), "{}".into()];
    write(&sink, vec![row]).await;
    assert_eq!(cloud.rows("SELECT r.m, x FROM d.t").await, [json!(["m", "{}"])]);
    let changed = [Column::new("n", Kind::String), record(vec![n().with_mode(Mode::Repeated)])];
    let refused = cloud.table(&changed, settings()).await.unwrap_err();
    assert!(
        refused.contains("column n: STRING NULLABLE in the settings, INT64 NULLABLE in the table"),
        "{refused}"
    );
    assert!(
        refused.contains("column r.n: INT64 REPEATED in the settings, INT64 NULLABLE"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_missing_dataset_is_waited_for() {
    let cloud = Cloud::start().await;
    let client = bigqueries::client::rest(&cloud.endpoint).await.unwrap();
    let name = TableName { dataset: "late".into(), ..name() };
    let columns: Arc<[Column]> = [Column::new("n", Kind::Int64)].into();
    let table = Table::new(client, name, columns, settings());
    let context = Context::default();
    let condition = context.health.condition("table");

    let waiting = tokio::spawn(async move { table.wait(&condition).await });
    let reason = || context.health.conditions()["table"].reason.clone();
    while !reason().contains("Not found: Dataset p:late") {
        tokio::task::yield_now().await;
    }
    let dataset = json!({ "datasetReference": { "datasetId": "late" } });
    cloud.post("projects/p/datasets", &dataset).await;

    timeout(Duration::from_secs(20), waiting).await.unwrap().unwrap().unwrap();
    assert!(context.health.conditions()["table"].ready);
}

#[tokio::test]
async fn a_default_that_bigquery_refuses_for_a_table_that_is_there_ends_the_wait() {
    let cloud = Cloud::start().await;
    let n = Column::new("n", Kind::Int64);
    cloud.table(std::slice::from_ref(&n), settings()).await.unwrap();
    let client = bigqueries::client::rest(&cloud.endpoint).await.unwrap();
    let unfit = [Column { default: Some("'x'".into()), ..n }];
    let table = Table::new(client, name(), unfit.into(), settings());
    let condition = Context::default().health.condition("table");

    let waited = timeout(Duration::from_secs(20), table.wait(&condition)).await;

    let refused = waited.expect("it asks for ever").unwrap_err();
    assert!(refused.is::<WrongSettings>());
    assert!(refused.to_string().contains("default value expression 'x' of field n"), "{refused}");
}

#[tokio::test]
async fn a_default_that_a_table_lacks_is_named_where_nothing_may_be_added() {
    let cloud = Cloud::start().await;
    let n = Column::new("n", Kind::Int64);
    cloud.table(std::slice::from_ref(&n), settings()).await.unwrap();
    let closed = config::TableSettings { add_columns: false, ..settings() };
    let with_default = Column { default: Some("7".into()), ..n.clone() };
    let more = [n, Column::new("m", Kind::Int64)];

    let refused = cloud.table(&[with_default], closed.clone()).await.unwrap_err();
    assert!(
        refused.contains("add_columns is off, and not in the table: the default of column n"),
        "{refused}"
    );
    let refused = cloud.table(&more, closed).await.unwrap_err();
    assert!(refused.contains("add_columns is off, and not in the table: column m"), "{refused}");
}
