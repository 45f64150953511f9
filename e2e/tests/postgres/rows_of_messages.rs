//! Each message is one row, or a dead letter with the reason.

use std::collections::BTreeMap;

use rows::column::{Column, Kind, Mode, Type};
use serde_json::{Value, json};

use crate::env::{Env, GRACE, TABLE, sent, start, until};

fn column(name: &str, data_type: &str) -> Column {
    Column::new(name, data_type.parse::<Type>().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_delivered_twice_is_one_row() {
    let env = Env::start().await;
    let payloads: Vec<_> = (0..10_000).map(|number| json!({ "number": number })).collect();
    let mut settings = env.settings();
    settings.table.columns = vec![column("number", "INT64")];
    let hosted = start(settings).await;

    env.publish(0, &payloads).await;
    env.publish(0, &payloads).await;
    until(async || sent(&hosted) >= 20_000).await;
    let metrics = hosted.metrics().unwrap();
    assert!(metrics.contains("dataflow_postgres_duplicate_rows_total 10000\n"), "{metrics}");
    hosted.shutdown(GRACE).await.unwrap();

    let distinct = format!("SELECT count(DISTINCT (ingest_id, number)) FROM {TABLE}");
    assert_eq!(env.rows().await, 10_000);
    assert_eq!(env.server.count(&distinct).await.unwrap(), 10_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_row_is_a_dead_letter_and_its_neighbours_are_rows() {
    let env = Env::start().await;
    let hosted = start(env.settings()).await;
    refuse_bad_texts(&env).await;
    // A batch is split until the culprits stand alone.
    let payload = |number: usize| match number {
        250 | 251 | 499 => json!({ "number": number, "text": "bad" }),
        _ => json!({ "number": number, "text": "" }),
    };
    let payloads: Vec<_> = (0..500).map(payload).collect();

    env.publish(0, &payloads).await;
    until(async || sent(&hosted) >= 497).await;
    let dead_letters = env.dead_letters(3).await;
    hosted.shutdown(GRACE).await.unwrap();

    assert_eq!(env.rows().await, 497);
    assert_eq!(dead_letters.len(), 3);
    for dead_letter in dead_letters {
        assert_eq!(dead_letter.attributes["dl_reason"], "row_refused");
        let detail = &dead_letter.attributes["dl_detail"];
        assert!(detail.contains("SQLSTATE 23514"), "{detail}");
        assert!(detail.contains("no_bad_text"), "{detail}");
    }
}

/// Adds a check of the server itself, which no conversion knows.
async fn refuse_bad_texts(env: &Env) {
    let check = "CHECK (position('bad' in rest::text) = 0)";
    let check = format!("ALTER TABLE {TABLE} ADD CONSTRAINT no_bad_text {check}");
    env.server.client().await.unwrap().batch_execute(&check).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn few_connections_are_enough_to_refuse_rows_in_every_batch() {
    let env = Env::start().await;
    let mut settings = env.settings();
    settings.postgres.max_connections = Some(2);
    settings.pipeline.lanes = 4;
    settings.pipeline.batch.max_messages = 10;
    let hosted = start(settings).await;
    refuse_bad_texts(&env).await;
    let payload = |number: usize| json!({ "text": if number % 10 == 3 { "bad" } else { "" } });
    let payloads: Vec<_> = (0..500).map(payload).collect();

    env.publish(0, &payloads).await;
    until(async || sent(&hosted) >= 450).await;
    let dead_letters = env.dead_letters(50).await;
    hosted.shutdown(GRACE).await.unwrap();

    assert_eq!((env.rows().await, dead_letters.len()), (450, 50));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_a_constraint_refuses_is_a_dead_letter_that_names_it() {
    let env = Env::start().await;
    let mut settings = env.settings();
    settings.table.columns = vec![column("number", "INT64")];
    let hosted = start(settings).await;
    let check = format!("ALTER TABLE {TABLE} ADD CONSTRAINT small CHECK (number < 10)");
    env.server.run(&check).await.unwrap();

    env.publish(0, &[json!({ "number": 1 }), json!({ "number": 11 })]).await;
    until(async || sent(&hosted) >= 1).await;
    let dead_letter = env.dead_letters(1).await.remove(0);
    hosted.shutdown(GRACE).await.unwrap();

    let detail = &dead_letter.attributes["dl_detail"];
    assert!(detail.contains("SQLSTATE 23514, constraint small"), "{detail}");
    assert_eq!(env.rows().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_a_trigger_refuses_is_a_dead_letter_that_names_the_column() {
    let env = Env::start().await;
    let mut settings = env.settings();
    settings.table.columns = vec![column("number", "INT64")];
    let hosted = start(settings).await;
    let trigger = format!(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
           IF NEW.number > 9 THEN \
             RAISE EXCEPTION 'too large' USING ERRCODE = '22003', COLUMN = 'number'; \
           END IF; \
           RETURN NEW; \
         END $$; \
         CREATE TRIGGER refuse BEFORE INSERT ON {TABLE} FOR EACH ROW EXECUTE FUNCTION refuse()"
    );
    env.server.client().await.unwrap().batch_execute(&trigger).await.unwrap();

    env.publish(0, &[json!({ "number": 1 }), json!({ "number": 11 })]).await;
    until(async || sent(&hosted) >= 1).await;
    let dead_letter = env.dead_letters(1).await.remove(0);
    hosted.shutdown(GRACE).await.unwrap();

    let detail = &dead_letter.attributes["dl_detail"];
    assert!(detail.contains("SQLSTATE 22003, column number"), "{detail}");
    assert_eq!(env.rows().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_every_type_arrive_as_they_were_sent() {
    let env = Env::start().await;
    let mut settings = env.settings();
    let table = [
        ("text", "STRING", json!("ä\"'\\{},"), json!("ä\"'\\{},")),
        ("short", "STRING(3)", json!("äöü"), json!("äöü")),
        ("bytes", "BYTES", json!("AP8="), json!("\\x00ff")),
        ("int", "INT64", json!(i64::MIN), json!(i64::MIN)),
        ("float", "FLOAT64", json!(0.1), json!(0.1)),
        ("bool", "BOOL", json!(true), json!(true)),
        (
            "at",
            "TIMESTAMP",
            json!("2025-06-15T10:30:00.123456+02:00"),
            json!("2025-06-15T08:30:00.123456+00:00"),
        ),
        ("first", "TIMESTAMP", json!("0001-01-01T00:00:00Z"), json!("0001-01-01T00:00:00+00:00")),
        ("day", "DATE", json!("1999-12-31"), json!("1999-12-31")),
        ("time", "TIME", json!("10:30:00.5"), json!("10:30:00.5")),
        ("local", "DATETIME", json!("2025-06-15 10:30:00"), json!("2025-06-15T10:30:00")),
        ("price", "NUMERIC", json!("12345678901234567890.123456789"), Value::Null),
        ("cents", "NUMERIC(4,2)", json!("-12.34"), json!(-12.34)),
        ("json", "JSON", json!({ "a": [1, null] }), json!({ "a": [1, null] })),
        ("place", "GEOGRAPHY", json!("POINT(1 2)"), json!("POINT(1 2)")),
        ("span", "INTERVAL", json!("1-2 3 4:5:6.789"), json!("1 year 2 mons 3 days 04:05:06.789")),
        ("back", "INTERVAL", json!("-1-2 3 -4:5:6"), json!("-1 years -2 mons +3 days -04:05:06")),
        ("days", "RANGE<DATE>", json!("[2025-06-15, UNBOUNDED)"), json!("[2025-06-15,)")),
    ];
    settings.table.columns = table.iter().map(|(name, kind, ..)| column(name, kind)).collect();
    let list = |name: &str, kind: &str| column(name, kind).with_mode(Mode::Repeated);
    settings.table.columns.extend([
        list("texts", "STRING"),
        list("numbers", "INT64"),
        list("prices", "NUMERIC"),
        list("none", "BOOL"),
        Column::record("record", vec![Column::new("a", Kind::Int64), Column::new("b", Kind::Bool)]),
    ]);
    let mut payload: BTreeMap<_, _> =
        table.iter().map(|(name, _, sent, _)| (*name, sent.clone())).collect();
    payload.insert("texts", json!(["", "NULL", "a,\"b\"\\", "{}"]));
    payload.insert("numbers", json!([1, -2]));
    payload.insert("prices", json!(["0.1", "-1.000000001"]));
    payload.insert("record", json!({ "a": 1, "b": null, "c": 3 }));
    let hosted = start(settings).await;

    env.publish(0, &[json!(payload), json!({})]).await;
    until(async || sent(&hosted) >= 2).await;
    hosted.shutdown(GRACE).await.unwrap();

    let query = format!("SELECT *, price::text AS exact FROM {TABLE} ORDER BY ingest_id");
    let found = env.server.rows(&query).await.unwrap();
    let (row, empty) = (&found[0], &found[1]);
    for (name, _, _, expected) in table.iter().filter(|(name, ..)| *name != "price") {
        assert_eq!(row[*name], *expected, "{name}");
        assert_eq!(empty[*name], Value::Null, "{name}");
    }
    assert_eq!(row["exact"], "12345678901234567890.123456789");
    assert_eq!(row["texts"], json!(["", "NULL", "a,\"b\"\\", "{}"]));
    assert_eq!(row["numbers"], json!([1, -2]));
    assert_eq!(row["prices"], json!([0.1, -1.000_000_001]));
    assert_eq!(row["none"], json!([]));
    assert_eq!(row["record"], json!({ "a": "1" }));
    assert_eq!(row["rest"]["payload"], json!({ "record": { "c": 3 } }));
}
