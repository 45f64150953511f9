//! Tests of dates and times in queries: literals, arithmetic, zones and differences.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::tables::{Tables, values};

const NOT_IMPLEMENTED: StatusCode = StatusCode::NOT_IMPLEMENTED;

/// Creates `d.t` with a row at 07:00, 09:00 and 11:00 of the first three days of 2026.
async fn start() -> Tables {
    let tables = Tables::start().await;
    tables
        .create(json!([{ "name": "name", "type": "STRING" }, { "name": "at", "type": "TIMESTAMP" },
                       { "name": "day", "type": "DATE" }, { "name": "local", "type": "DATETIME" }]))
        .await;
    for (name, day, hour) in [("a", "01", "07"), ("b", "02", "09"), ("c", "03", "11")] {
        let local = format!("2026-01-{day}T{hour}:00:00");
        let day = format!("2026-01-{day}");
        let row = json!({ "name": name, "at": format!("{local}Z"), "day": day, "local": local });
        tables.insert(&[row]).await;
    }
    tables
}

#[tokio::test]
async fn days_are_added_to_dates_and_other_arithmetic_of_times_is_refused() {
    let tables = start().await;

    tables
        .expect(&[
            ("SELECT day + 1, day - 1 FROM d.t WHERE name = 'a'", json!([["2026-01-02", "2025-12-31"]])),
            ("SELECT name FROM d.t WHERE day + 2 * 1 - 1 = DATE '2026-01-03'", json!([["b"]])),
            ("SELECT name FROM d.t WHERE DATE(at) - 1 > '2026-01-01'", json!([["c"]])),
            ("SELECT COUNT(*) FROM d.t WHERE day >= CURRENT_DATE() - 10000", json!([["3"]])),
            ("SELECT DATE_ADD(day, INTERVAL 1 DAY) FROM d.t WHERE name = 'a'", json!([["2026-01-02"]])),
            ("SELECT name FROM d.t WHERE at < TIMESTAMP_SUB('2026-01-01T08:00:00Z', INTERVAL 30 MINUTE)",
             json!([["a"]])),
            ("SELECT DATE_TRUNC(day, MONTH), EXTRACT(DAY FROM at) FROM d.t WHERE name = 'b'",
             json!([["2026-01-01", "2"]])),
        ])
        .await;
    tables
        .expect_refused(&[
            ("SELECT at + INTERVAL 1 DAY FROM d.t", NOT_IMPLEMENTED, "TIMESTAMP"),
            ("SELECT day + INTERVAL 1 DAY FROM d.t", NOT_IMPLEMENTED, "INTERVAL"),
            ("SELECT INTERVAL 1 DAY", NOT_IMPLEMENTED, "INTERVAL"),
            ("SELECT day - DATE '2026-01-01' FROM d.t", NOT_IMPLEMENTED, "INTERVAL"),
            ("SELECT at - at FROM d.t", NOT_IMPLEMENTED, "TIMESTAMP"),
            ("SELECT 1 + day FROM d.t", NOT_IMPLEMENTED, "date or time"),
            ("SELECT DATE_ADD(day, 1) FROM d.t", StatusCode::BAD_REQUEST, "INTERVAL"),
            ("SELECT DATE_TRUNC(day, WEEK(MONDAY)) FROM d.t", NOT_IMPLEMENTED, "parts"),
        ])
        .await;
}

#[tokio::test]
async fn texts_are_times_wherever_they_are_compared_with_times() {
    let tables = start().await;

    tables
        .expect(&[
            ("SELECT name FROM d.t WHERE at BETWEEN '2026-01-01T07:00:00Z' AND '2026-01-01T09:00:00+02:00'",
             json!([["a"]])),
            ("SELECT name FROM d.t WHERE at NOT BETWEEN '2026-01-01' AND '2026-01-03'", json!([["c"]])),
            ("SELECT name FROM d.t WHERE at IN ('2026-01-02T09:00:00Z', '2026-01-09')", json!([["b"]])),
            ("SELECT name FROM d.t WHERE at NOT IN ('2026-01-02T09:00:00Z') ORDER BY 1",
             json!([["a"], ["c"]])),
            ("SELECT name FROM d.t WHERE '2026-01-02T09:00:00Z' < at", json!([["c"]])),
            ("SELECT name FROM d.t WHERE TIMESTAMP_TRUNC(at, DAY) = '2026-01-02T00:00:00Z'",
             json!([["b"]])),
            ("SELECT name FROM d.t WHERE local = '2026-01-02 09:00:00'", json!([["b"]])),
            ("SELECT name FROM d.t WHERE COALESCE(at, '2026-01-01T00:00:00Z') = '2026-01-02T10:00:00+01:00'",
             json!([["b"]])),
            ("SELECT COUNT(*) FROM (SELECT DATE(at) AS at FROM d.t) WHERE at = '2026-01-02'",
             json!([["1"]])),
            ("SELECT name FROM d.t GROUP BY name HAVING MAX(at) = '2026-01-02T09:00:00Z'",
             json!([["b"]])),
        ])
        .await;
    tables
        .expect_refused(&[
            ("SELECT 1 FROM d.t WHERE at > day", StatusCode::BAD_REQUEST, "TIMESTAMP, DATE"),
            ("SELECT 1 FROM d.t WHERE local > day", NOT_IMPLEMENTED, "DATETIME"),
            ("SELECT 1 FROM d.t WHERE at IN ('yesterday')", StatusCode::BAD_REQUEST, "yesterday"),
        ])
        .await;
    let parameter = json!({ "name": "from", "parameterType": { "type": "STRING" },
                            "parameterValue": { "value": "2026-01-02T09:00:00Z" } });
    let body = json!({ "query": "SELECT name FROM d.t WHERE at >= @from ORDER BY name",
                       "useLegacySql": false, "parameterMode": "NAMED",
                       "queryParameters": [parameter] });
    let (_, answer) = tables.call(Method::POST, "queries", body).await;
    assert_eq!(values(&answer), json!([["b"], ["c"]]));
}

#[tokio::test]
async fn time_zones_other_than_utc_are_refused() {
    let tables = start().await;

    let query = "SELECT DATE(at, 'UTC'), FORMAT_TIMESTAMP('%H', at, 'UTC'), TIMESTAMP_TRUNC(at, DAY, 'UTC') =
                 '2026-01-01', EXTRACT(HOUR FROM at AT TIME ZONE 'UTC') FROM d.t WHERE name = 'a'";
    assert_eq!(tables.query(query).await, json!([["2026-01-01", "07", "true", "7"]]));
    for expression in [
        "CURRENT_DATE('Asia/Tokyo')",
        "CURRENT_DATETIME('Asia/Tokyo')",
        "DATE(at, 'Europe/Berlin')",
        "DATETIME(at, 'Europe/Berlin')",
        "TIME(at, 'Europe/Berlin')",
        "TIMESTAMP(local, 'Europe/Berlin')",
        "FORMAT_TIMESTAMP('%H', at, 'Europe/Berlin')",
        "TIMESTAMP_TRUNC(at, DAY, 'Europe/Berlin')",
        "EXTRACT(HOUR FROM at AT TIME ZONE 'Europe/Berlin')",
    ] {
        let query = format!("SELECT {expression} FROM d.t");
        tables.expect_refused(&[(&query, NOT_IMPLEMENTED, "time zones")]).await;
    }
}

#[tokio::test]
async fn differences_count_borders_or_whole_lengths() {
    let tables = Tables::start().await;

    let borders = "SELECT DATE_DIFF('2017-10-15', '2017-10-14', WEEK),
        DATE_DIFF('2017-10-15', '2017-10-14', ISOWEEK), DATE_DIFF('2018-01-01', '2017-12-31', YEAR),
        DATETIME_DIFF('2026-01-02T00:01:00', '2026-01-01T23:59:00', HOUR),
        TIME_DIFF('10:00:01', '09:59:59', MINUTE)";
    let lengths = "SELECT TIMESTAMP_DIFF('2026-01-02T00:01:00Z', '2026-01-01T23:59:00Z', HOUR),
        TIMESTAMP_DIFF('2026-01-03', '2026-01-01', DAY)";
    tables
        .expect(&[(borders, json!([["1", "0", "1", "1", "1"]])), (lengths, json!([["0", "2"]]))])
        .await;
    let months = "SELECT TIMESTAMP_DIFF('2026-03-01', '2026-01-01', MONTH)";
    tables.expect_refused(&[(months, StatusCode::BAD_REQUEST, "MONTH")]).await;
}
