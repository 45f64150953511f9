//! Tests of functions and operators that SQLite has with another meaning, or that only it has.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::tables::Tables;

/// Returns the values of one row of expressions.
async fn row(tables: &Tables, expressions: &str) -> Value {
    tables.query(&format!("SELECT {expressions}")).await[0].clone()
}

#[tokio::test]
async fn functions_compute_as_google_does() {
    let tables = Tables::start().await;

    for (expressions, expected) in [
        (
            "ROUND(1234.5, -2), ROUND(2.5), ROUND(-1.25, 1), TRUNC(1.99, 1)",
            json!(["1200.0", "3.0", "-1.3", "1.9"]),
        ),
        ("CEIL(1), FLOOR(1.5), SIGN(-2), POWER(2, 3)", json!(["1.0", "1.0", "-1", "8.0"])),
        ("LOG(EXP(1)), LOG(8, 2), LOG10(100)", json!(["1.0", "3.0", "2.0"])),
        (
            "SUBSTR('abc', 0, 2), SUBSTR('abc', -2), SUBSTR('äöü', 2, 1), SUBSTR('ab', -5, 1)",
            json!(["ab", "bc", "ö", "a"]),
        ),
        ("UPPER('straße ä'), LOWER('ÄÖ'), TRIM('\\t a \\n')", json!(["STRASSE Ä", "äö", "a"])),
        (
            "JSON_EXTRACT('{\"a\":\"x\"}', '$.a'), JSON_VALUE('{\"a\":\"x\"}', '$.a')",
            json!(["\"x\"", "x"]),
        ),
        ("GREATEST(5), CAST(2.0 AS STRING), UNIX_DATE(DATE '1970-01-02')", json!(["5", "2", "1"])),
    ] {
        assert_eq!(row(&tables, expressions).await, expected, "{expressions}");
    }
    for (expression, status, why) in [
        ("FORMAT('%d', 1)", StatusCode::NOT_IMPLEMENTED, "FORMAT"),
        ("JSON_TYPE('1')", StatusCode::NOT_IMPLEMENTED, "JSON_TYPE"),
        ("REGEXP_CONTAINS('a', 'a')", StatusCode::NOT_IMPLEMENTED, "REGEXP_CONTAINS"),
        ("LEFT('abc', 1)", StatusCode::NOT_IMPLEMENTED, "LEFT"),
        ("ST_AREA(NULL)", StatusCode::NOT_IMPLEMENTED, "ST_AREA"),
        ("STRFTIME('%Y', '2026-01-01')", StatusCode::BAD_REQUEST, "Function not found: STRFTIME"),
        ("IIF(TRUE, 1, 2)", StatusCode::BAD_REQUEST, "Function not found: IIF"),
        ("MAX(1, 2)", StatusCode::BAD_REQUEST, "Number of arguments"),
        ("LN(0)", StatusCode::BAD_REQUEST, "Floating point error"),
        ("SUBSTR('a', 1, -1)", StatusCode::BAD_REQUEST, "negative"),
    ] {
        tables.expect_refused(&[(&format!("SELECT {expression}"), status, why)]).await;
    }
}

#[tokio::test]
async fn patterns_and_literals_have_escape_sequences() {
    let tables = Tables::start().await;

    for (expressions, expected) in [
        (
            r"'a_b' LIKE r'a\_b', 'axb' LIKE r'a\_b', '5%' LIKE '5\\%', '50' LIKE '5\\%'",
            json!(["true", "false", "true", "false"]),
        ),
        (
            r"'ab' LIKE 'a_', 'AB' LIKE 'ab', 'abc' NOT LIKE '%b', 'äb' LIKE '_b'",
            json!(["true", "false", "true", "true"]),
        ),
        (r"'\u00e4\x41\102', r'\u'", json!(["äAB", r"\u"])),
    ] {
        assert_eq!(row(&tables, expressions).await, expected, "{expressions}");
    }
    for (expression, why) in [(r"'\d'", "Illegal escape"), (r"'a' LIKE 'a\\'", "backslash")] {
        let query = format!("SELECT {expression}");
        tables.expect_refused(&[(&query, StatusCode::BAD_REQUEST, why)]).await;
    }
}

#[tokio::test]
async fn bytes_are_compared_for_equality_alone() {
    let tables = Tables::start().await;
    tables.create(json!([{ "name": "b", "type": "BYTES" }])).await;
    tables.query(r"INSERT d.t VALUES (b'hi'), (CAST('hi' AS BYTES)), (b'\xff')").await;

    tables
        .expect(&[
            ("SELECT b FROM d.t", json!([["aGk="], ["aGk="], ["/w=="]])),
            ("SELECT COUNT(*), COUNT(DISTINCT b) FROM d.t WHERE b = b'hi'", json!([["2", "1"]])),
            (
                "SELECT CAST(b AS STRING), SAFE_CAST(b'\\xff' AS STRING) FROM d.t LIMIT 1",
                json!([["hi", null]]),
            ),
        ])
        .await;
    for query in [
        "SELECT LENGTH(b) FROM d.t",
        "SELECT CONCAT(b, b) FROM d.t",
        "SELECT b || b FROM d.t",
        "SELECT 1 FROM d.t WHERE b < b'hi'",
        "SELECT b FROM d.t ORDER BY b DESC",
        "SELECT b FROM d.t ORDER BY 1",
        "SELECT MAX(b) FROM d.t",
    ] {
        tables.expect_refused(&[(query, StatusCode::NOT_IMPLEMENTED, "BYTES")]).await;
    }
}

#[tokio::test]
async fn an_overflow_of_whole_numbers_is_an_error_and_mixed_numbers_are_not() {
    let tables = Tables::start().await;
    tables.create(json!([{ "name": "a", "type": "INTEGER" }])).await;
    tables.query("INSERT d.t VALUES (9223372036854775807)").await;

    let overflow = [
        ("SELECT a + 1 FROM d.t", StatusCode::BAD_REQUEST, "int64 overflow"),
        ("SELECT a * a AS x FROM d.t", StatusCode::BAD_REQUEST, "int64 overflow"),
    ];
    tables.expect_refused(&overflow).await;
    let mixed = "SELECT a - 1, IF(a = 0, 1, 2.5) FROM d.t";
    assert_eq!(tables.query(mixed).await, json!([["9223372036854775806", "2.5"]]));
}
