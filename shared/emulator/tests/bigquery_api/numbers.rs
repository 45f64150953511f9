//! Tests of exact numbers, which are stored as text and compared as numbers.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::tables::{Tables, values};

async fn start() -> Tables {
    let tables = Tables::start().await;
    let columns =
        json!([{ "name": "s", "type": "STRING" }, { "name": "price", "type": "NUMERIC" }]);
    tables.create(columns).await;
    tables.query("INSERT d.t VALUES ('9', 9), ('100.5', 100.5), ('20', NUMERIC '20')").await;
    tables
}

#[tokio::test]
async fn exact_numbers_are_compared_as_numbers_wherever_they_come_from() {
    let tables = start().await;

    tables
        .expect(&[
            ("SELECT s FROM d.t WHERE CAST(s AS NUMERIC) > 20", json!([["100.5"]])),
            ("SELECT s FROM d.t WHERE price > NUMERIC '20'", json!([["100.5"]])),
            ("SELECT MAX(CAST(s AS NUMERIC)), MAX(price) FROM d.t", json!([["100.5", "100.5"]])),
            ("SELECT s FROM d.t ORDER BY CAST(s AS BIGNUMERIC)", json!([["9"], ["20"], ["100.5"]])),
            (
                "SELECT x FROM (SELECT CAST(s AS NUMERIC) AS x FROM d.t) WHERE x > 9 ORDER BY x",
                json!([["20"], ["100.5"]]),
            ),
            (
                "SELECT s FROM d.t WHERE price IN (SELECT price FROM d.t WHERE s = '9')",
                json!([["9"]]),
            ),
            ("SELECT s FROM d.t WHERE price = (SELECT MIN(price) FROM d.t)", json!([["9"]])),
            ("SELECT SUM(price), SUM(price) * 2 FROM d.t", json!([["129.5", "259"]])),
            ("SELECT CAST(price AS STRING) FROM d.t WHERE s = '9'", json!([["9"]])),
        ])
        .await;
    let refused = [("SELECT price FROM d.t ORDER BY 1", StatusCode::NOT_IMPLEMENTED, "ORDER BY")];
    tables.expect_refused(&refused).await;
}

#[tokio::test]
async fn exact_parameters_are_compared_as_numbers_and_kept_in_full() {
    let tables = start().await;
    let run = async |query: &str, value: &str| {
        let kind = json!({ "type": "NUMERIC" });
        let parameters = json!([
            { "name": "min", "parameterType": kind, "parameterValue": { "value": value } },
            { "name": "list", "parameterType": { "type": "ARRAY", "arrayType": kind },
              "parameterValue": { "arrayValues": [{ "value": value }] } },
        ]);
        let body = json!({ "query": query, "useLegacySql": false, "parameterMode": "NAMED",
                           "queryParameters": parameters });
        let (status, answer) = tables.call(Method::POST, "queries", body).await;
        assert_eq!(status, StatusCode::OK, "{query}: {answer}");
        values(&answer)
    };

    let having = "SELECT s FROM d.t GROUP BY s HAVING SUM(price) > @min";
    assert_eq!(run(having, "20").await, json!([["100.5"]]));
    let within = "SELECT s FROM d.t WHERE price IN UNNEST(@list)";
    assert_eq!(run(within, "100.50").await, json!([["100.5"]]));
    let long = "12345678901234567890123456789.123456789";
    assert_eq!(run("SELECT @min", long).await, json!([[long]]));
    run("INSERT d.t VALUES ('long', @min)", long).await;
    run("UPDATE d.t SET price = @min WHERE s = '9'", long).await;
    let both = "SELECT price, CAST(price AS STRING) FROM d.t WHERE s IN ('long', '9')";
    assert_eq!(tables.query(both).await, json!([[long, long], [long, long]]));
}
