//! Answers that do not depend on the store. Every case runs over both.

use reqwest::StatusCode;
use rows::column::{Column, Kind};
use serde_json::{Value, json};

use super::api::{Api, STORES, envelope, numbers, with_rows, write};
use crate::env::Env;

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_found_by_source_and_time_page_by_page() {
    let env = Env::start().await;
    with_rows(&env, 1_000).await;
    for store in STORES {
        let api = Api::start(&env, store).await;

        // 100 rows by default, in the order of their times.
        let first = api.data(&[]).await;
        assert_eq!(numbers(&first), (0..100).collect::<Vec<_>>(), "{store:?}");
        // A half-open interval.
        let (start, end) = ("2025-06-15T00:00:10Z", "2025-06-15T00:00:12Z");
        let some = api.data(&[("start_time", start), ("end_time", end)]).await;
        assert_eq!(numbers(&some), (100..120).collect::<Vec<_>>(), "{store:?}");
        let between = "2025-06-15T00:00:10.0000001Z";
        let some = api.data(&[("start_time", between), ("end_time", end)]).await;
        assert_eq!(numbers(&some), (101..120).collect::<Vec<_>>(), "{store:?}");
        let some = api.data(&[("start_time", start), ("end_time", between)]).await;
        assert_eq!(numbers(&some), [100], "{store:?}");
        let one = api.data(&[("source_id", "d-3"), ("limit", "3"), ("offset", "1")]).await;
        assert_eq!(numbers(&one), [13, 23, 33], "{store:?}");
        assert_eq!(
            tokens_lead_through(&api, &[("limit", "70")]).await,
            (0..1_000).collect::<Vec<_>>()
        );
        let of_one = [("source_id", "d-7"), ("start_time", start), ("limit", "9")];
        let expected: Vec<_> = (107..1_000).step_by(10).collect();
        assert_eq!(tokens_lead_through(&api, &of_one).await, expected, "{store:?}");
        let all = api.data(&[("limit", "10000"), ("next", "")]).await;
        assert_eq!((numbers(&all).len(), &all["next"]), (1_000, &Value::Null), "{store:?}");
        api.shutdown().await;
    }
}

/// Follows the tokens from the first page on. Returns the numbers of all rows.
async fn tokens_lead_through(api: &Api, query: &[(&str, &str)]) -> Vec<i64> {
    let (mut all, mut next) = (Vec::new(), String::new());
    loop {
        let query: Vec<_> = query.iter().copied().chain([("next", next.as_str())]).collect();
        let page = api.data(&query).await;
        all.extend(numbers(&page));
        let Some(token) = page["next"].as_str() else { return all };
        next = token.to_owned();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_in_the_order_of_their_times_and_then_of_the_bytes_of_their_ids() {
    let env = Env::start().await;
    let (before, at, after) =
        ("2025-06-14T23:59:59Z", "2025-06-15T00:00:00Z", "2025-06-15T00:00:01Z");
    let of_one_moment = ["b", "B", "a", "ä", "_", "Z"].map(|id| (id, at));
    let messages: Vec<_> = of_one_moment
        .into_iter()
        .chain([("zz", before), ("0", after)])
        .enumerate()
        .map(|(number, (id, at))| envelope(id, at, &json!({ "device_id": "d", "number": number })))
        .collect();
    let columns = [Column::new("device_id", Kind::String), Column::new("number", Kind::Int64)];
    write(&env, &columns, &messages).await;
    for store in STORES {
        let api = Api::start(&env, store).await;

        let all = tokens_lead_through(&api, &[("limit", "1")]).await;

        assert_eq!(all, [6, 1, 5, 4, 2, 0, 3, 7], "{store:?}");
        api.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_came_twice_is_one_row() {
    let env = Env::start().await;
    let message = |id: &str, second: usize, number: usize| {
        let payload = json!({ "device_id": "d", "number": number });
        envelope(id, &format!("2025-06-15T00:00:{second:02}Z"), &payload)
    };
    let messages: Vec<_> = (0..30)
        .map(|number| message(&format!("{}", number / 3), number / 3, number / 3))
        // Sent again by its device, ten seconds later.
        .chain([message("0", 10, 0)])
        .collect();
    let columns = [Column::new("device_id", Kind::String), Column::new("number", Kind::Int64)];
    write(&env, &columns, &messages).await;
    let stored = env.cloud.query("SELECT COUNT(*) FROM dataflow.readings").await.unwrap();
    assert_eq!(stored[0][0], "31", "BigQuery has the copies");
    assert_eq!(env.rows().await, 10);
    for store in STORES {
        let api = Api::start(&env, store).await;

        let all = tokens_lead_through(&api, &[("limit", "4")]).await;
        assert_eq!(all, (0..10).collect::<Vec<_>>(), "{store:?}");
        let some = api.data(&[("offset", "8"), ("source_id", "d")]).await;
        assert_eq!(numbers(&some), [8, 9], "{store:?}");
        api.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_ends_after_its_bytes() {
    let env = Env::start().await;
    let row = |number: usize| {
        let payload = json!({ "device_id": "d", "number": number, "text": "ü".repeat(700_000) });
        envelope(&number.to_string(), &format!("2025-06-15T00:00:{number:02}Z"), &payload)
    };
    let messages: Vec<_> = (0..9).map(row).collect();
    let columns = [
        Column::new("device_id", Kind::String),
        Column::new("number", Kind::Int64),
        Column::new("text", Kind::String),
    ];
    write(&env, &columns, &messages).await;
    for store in STORES {
        let api = Api::start(&env, store).await;

        let first = api.data(&[]).await;
        assert_eq!(numbers(&first), (0..6).collect::<Vec<_>>(), "{store:?}");
        let rest = api.data(&[("next", first["next"].as_str().unwrap())]).await;
        assert_eq!(numbers(&rest), [6, 7, 8], "{store:?}");
        assert_eq!(rest["next"], Value::Null);
        api.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_are_told_what_is_wrong() {
    let env = Env::start().await;
    with_rows(&env, 1).await;
    for store in STORES {
        let api = Api::start(&env, store).await;
        for (name, value) in
            [("limit", "0"), ("next", "x"), ("start_time", "now"), ("color", "red")]
        {
            let answer = api.get(&[(name, value)]).await;
            assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
            assert_eq!(answer.headers()["content-type"], "application/problem+json");
            let problem: Value = answer.json().await.unwrap();
            assert_eq!(problem["field"], name, "{problem}");
        }
        api.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_missing_or_different_is_told_so() {
    use query::Query;
    use service::Service as _;
    use service::tools::preflight::State;

    let env = Env::start().await;
    let state = async |store, column: &str| {
        let mut settings = super::api::settings(&env, store);
        settings.table.source_column = column.into();
        let mut dependencies = Query::new(settings).preflight().await.unwrap();
        dependencies.pop().unwrap().state
    };
    for store in STORES {
        let missing = state(store, "device_id").await;
        assert!(matches!(missing, State::Missing(_)), "{store:?}: {missing:?}");
    }

    with_rows(&env, 1).await;
    for store in STORES {
        assert_eq!(state(store, "device_id").await, State::Ready, "{store:?}");
        let different = state(store, "no_such_column").await;
        assert!(matches!(different, State::Differs(_)), "{store:?}: {different:?}");
    }
}
