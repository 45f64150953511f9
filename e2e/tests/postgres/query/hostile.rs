//! Text of a caller is a value, and never a part of a query.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use reqwest::StatusCode;
use serde_json::Value;

use super::api::{Api, STORES, with_rows};
use crate::env::Env;

/// Parameters of `GET /data`. All of them get hostile text.
const PARAMETERS: [&str; 7] =
    ["source_id", "start_time", "end_time", "limit", "offset", "next", "format"];

fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\PC{1,40}",
        "['\"`;\\\\$%_@?{}() -]{1,20}",
        "d-[0-9]' OR '1'='1",
        "d-[0-9]\\\\' OR 1=1 #",
        "100 UNION ALL SELECT [*1]",
        "2025-06-15T00:00:0[0-9]Z' --",
        Just("@limit".to_owned()),
        Just("$1".to_owned()),
        any::<String>().prop_filter("not empty", |text| !text.is_empty()),
    ]
}

/// Returns a token with this id, as an earlier answer would have.
fn token(id: &str) -> String {
    use base64::Engine as _;
    let place = serde_json::json!({ "t": 1_749_945_600_000_000_i64, "i": id });
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(place.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_text_is_a_value_and_never_sql() {
    let env = Env::start().await;
    with_rows(&env, 10).await;
    for store in STORES {
        let api = Api::start(&env, store).await;
        let runtime = tokio::runtime::Handle::current();
        let get = |query: &[(&str, &str)]| {
            let answer = runtime.block_on(api.get(query));
            (answer.status(), runtime.block_on(answer.json::<Value>()).unwrap_or_default())
        };
        tokio::task::block_in_place(|| {
            let mut runner = TestRunner::new(ProptestConfig::with_cases(60));
            runner
                .run(&texts(), |text| {
                    for name in PARAMETERS {
                        let (status, answer) = get(&[(name, &text)]);
                        let is_told = status == StatusCode::BAD_REQUEST && answer["field"] == name;
                        prop_assert!(status == StatusCode::OK || is_told, "{name}: {answer}");
                    }
                    if !text.contains('\0') {
                        let (status, answer) = get(&[("source_id", &text)]);
                        prop_assert_eq!(status, StatusCode::OK);
                        let is_device = text.len() == 3 && text.starts_with("d-");
                        let count = answer["data"].as_array().map(Vec::len);
                        prop_assert_eq!(count, Some(usize::from(is_device)), "{}", answer);
                        // All rows but the first one are later than this place.
                        let (status, answer) = get(&[("next", &token(&text))]);
                        prop_assert_eq!(status, StatusCode::OK);
                        let count = answer["data"].as_array().map(Vec::len);
                        let first = usize::from("000000" > text.as_str());
                        prop_assert_eq!(count, Some(9 + first), "{}", answer);
                    }
                    Ok(())
                })
                .unwrap();
        });
        api.shutdown().await;
    }
    assert_eq!(env.rows().await, 10);
    let stored = env.cloud.query("SELECT COUNT(*) FROM dataflow.readings").await.unwrap();
    assert_eq!(stored[0][0], "10");
}
