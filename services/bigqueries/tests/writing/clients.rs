//! Tests of clients that are handed in.

use std::sync::Arc;

use bigqueries::client::{Clients, Endpoint, rest_with};
use bigqueries::sink::Sink;
use bigqueries::table::Table;
use google_cloud_auth::credentials::anonymous;
use google_cloud_bigquery::client::Write;
use pipeline::Sink as _;
use rows::cell::Cell;
use rows::column::{Column, Kind};
use serde_json::json;
use service::Context;
use tokio::time::timeout;

use crate::{Cloud, TIME_LIMIT, encode, name, settings};

/// Returns clients that reach the embedded cloud, whatever the address in the settings is.
async fn clients(cloud: &Cloud) -> Clients {
    let url = cloud.emulator.url();
    let proxy = reqwest::Proxy::http(&url).unwrap();
    let credentials = anonymous::Builder::new().build();
    let write = Write::builder().with_endpoint(&url).with_credentials(credentials).build();
    Clients {
        http: Some(reqwest::Client::builder().proxy(proxy).build().unwrap()),
        storage_write: Some(Arc::new(write.await.unwrap())),
        ..Clients::default()
    }
}

#[tokio::test]
async fn the_table_is_checked_and_written_with_the_clients_that_are_handed_in() {
    let cloud = Cloud::start().await;
    let clients = clients(&cloud).await;
    let nobody = Endpoint { endpoint: Some("http://127.0.0.1:1".into()), ..Endpoint::default() };
    let columns = [Column::new("n", Kind::Int64)];
    let rest = rest_with(&nobody, &clients).await.unwrap();
    let table = Table::new(rest, name(), columns.as_slice().into(), settings());
    let condition = Context::default().health.condition("table");

    timeout(TIME_LIMIT, table.wait(&condition)).await.unwrap().unwrap();
    let inserting = Sink::insert_all(table.clone());
    let appending = Sink::storage_write_with(&nobody, table, clients).await.unwrap();
    for (number, sink) in [(1, inserting), (2, appending)] {
        let batch = encode(&sink, vec![vec![Cell::Int(number)]]);
        assert_eq!(timeout(TIME_LIMIT, sink.write(&batch, TIME_LIMIT)).await.unwrap().unwrap(), []);
    }

    assert_eq!(cloud.rows("SELECT n FROM d.t ORDER BY n").await, [json!(["1"]), json!(["2"])]);
}
