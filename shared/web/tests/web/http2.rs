//! Connections of HTTP/2, on a listener that takes calls of gRPC.

use std::time::Duration;

use axum::Router;
use axum::response::IntoResponse as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use web::{Bound, Grpc, Limits, Metrics, Open, Server};

use crate::env::{PATIENCE, SHORT, listener, patient, within};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Frame of SETTINGS without settings.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

/// Starts a listener, and connects to it.
async fn start(limits: Limits) -> (Server, TcpStream) {
    let bound = Bound::bind(&listener(), "test", Open::on_loopback()).await.unwrap();
    let address = bound.address();
    let grpc = Grpc { status: |problem, _| problem.status().into_response(), open: "/open/" };
    let server =
        bound.with_limits(limits).with_grpc(grpc).serve(Router::new(), &Metrics::default());
    (server, TcpStream::connect(address).await.unwrap())
}

/// Reads until the other side ends the connection.
async fn ends(mut stream: TcpStream) {
    // A reset is an end, too.
    let _ = within(stream.read_to_end(&mut Vec::new())).await;
}

#[tokio::test]
async fn a_connection_without_requests_is_closed_after_its_time() {
    for begin in [PREFACE.to_vec(), [PREFACE, &SETTINGS].concat()] {
        let (_server, mut stream) = start(Limits { idle_timeout: SHORT, ..patient() }).await;

        stream.write_all(&begin).await.unwrap();

        ends(stream).await;
    }
}

#[tokio::test]
async fn a_client_that_never_ends_its_preface_is_cut() {
    for begin in [b"".as_slice(), b"PRI * HTTP"] {
        let (_server, mut stream) = start(Limits { header_timeout: SHORT, ..patient() }).await;

        stream.write_all(begin).await.unwrap();

        ends(stream).await;
    }
}

#[tokio::test]
async fn a_drain_does_not_wait_for_a_client_that_says_nothing() {
    for begin in [b"PRI".to_vec(), PREFACE.to_vec(), [PREFACE, &SETTINGS].concat()] {
        let (server, mut stream) = start(patient()).await;
        stream.write_all(&begin).await.unwrap();
        if begin.len() > PREFACE.len() {
            // The other side has taken the settings.
            within(stream.read_u8()).await.unwrap();
        }

        within(server.shutdown(Duration::from_secs(3600))).await;

        ends(stream).await;
    }
    assert!(PATIENCE < patient().idle_timeout);
}
