//! Clients that are slow, endless, silent or many.

use tokio::io::AsyncWriteExt as _;
use web::{Limits, Open};

use crate::env::{Client, SHORT, TestEnv, listener, patient, within};

const HELLO: &str = "GET /hello HTTP/1.1\r\nhost: localhost\r\n\r\n";
const CHUNKED: &str =
    "POST /length HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n";

async fn start(limits: Limits) -> TestEnv {
    TestEnv::with(&listener(), Open::on_loopback(), limits).await
}

/// Writes the same bytes until the other side takes no more of them. Returns the answer.
async fn write_forever(mut client: Client, bytes: &[u8]) -> String {
    let (mut reading, mut writing) = client.0.split();
    let endless = async { while writing.write_all(bytes).await.is_ok() {} };
    let mut answer = Vec::new();
    let read = async {
        // A reset comes when the other side has not read everything. The answer came before it.
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut reading, &mut answer).await;
    };
    within(async { tokio::join!(endless, read) }).await;
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_client_that_never_ends_its_headers_is_cut() {
    let env = start(Limits { header_timeout: SHORT, ..patient() }).await;

    for begin in ["", "G", "GET /hello HTTP/1.1\r\nhost: localhost\r\nx: "] {
        let answer = env.write(begin).await.rest().await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{begin}: {answer}");
    }
    assert_eq!(env.get("/hello").await.code(), 200);
}

#[tokio::test]
async fn a_client_that_drips_its_headers_is_cut() {
    let env = start(Limits { header_timeout: SHORT, ..patient() }).await;
    let mut client = env.write("GET /hello HTTP/1.1\r\n").await;
    let (mut reading, mut writing) = client.0.split();

    let drip = async {
        while writing.write_all(b"a: b\r\n").await.is_ok() {
            tokio::time::sleep(SHORT / 20).await;
        }
    };
    let mut answer = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut reading, &mut answer);

    // A reset is an end too.
    let _ = within(async { tokio::join!(drip, read) }).await;
}

#[tokio::test]
async fn a_connection_that_stays_idle_is_closed() {
    let env = start(Limits { header_timeout: SHORT, ..patient() }).await;
    let mut client = env.write(HELLO).await;

    let answer = client.rest().await;

    assert!(answer.ends_with("hello"), "{answer}");
}

#[tokio::test]
async fn headers_of_ten_thousand_bytes_are_refused() {
    let env = start(patient()).await;
    let long = "x".repeat(10_000);
    let many = "a: b\r\n".repeat(200);

    for request in [
        format!("GET /hello HTTP/1.1\r\nhost: localhost\r\nx: {long}\r\n\r\n"),
        format!("GET /{long} HTTP/1.1\r\nhost: localhost\r\n\r\n"),
        format!("GET /hello HTTP/1.1\r\nhost: localhost\r\n{many}\r\n"),
    ] {
        let answer = env.write(request).await.rest().await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
    assert_eq!(env.get("/hello").await.code(), 200);
}

#[tokio::test]
async fn a_slow_body_is_answered_with_408() {
    let env = start(Limits { body_timeout: SHORT, ..patient() }).await;
    let sized = "POST /length HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\nhalf";

    for request in [sized, &format!("{CHUNKED}1\r\nx\r\n")] {
        let answer = env.write(request).await.rest().await;

        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        assert!(answer.contains("the body must arrive within 100ms"), "{answer}");
    }
}

#[tokio::test]
async fn an_endless_body_is_refused_at_its_limit() {
    let env = start(patient()).await;

    let answer = write_forever(env.write(CHUNKED).await, b"8\r\n12345678\r\n").await;

    // The answer may be lost in the reset of a client that goes on writing.
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert_eq!(env.get("/hello").await.code(), 200);
}

#[tokio::test]
async fn a_chunked_body_over_the_limit_is_answered_with_413() {
    let env = start(patient()).await;
    let chunk = |size: usize| format!("{size:x}\r\n{}\r\n", "x".repeat(size));

    let most = env.write(format!("{CHUNKED}{}{}0\r\n\r\n", chunk(999), chunk(1))).await;
    let more = env.write(format!("{CHUNKED}{}{}0\r\n\r\n", chunk(999), chunk(2))).await;

    let (mut most, mut more) = (most, more);
    most.until("1000").await;
    let answer = more.rest().await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("application/problem+json"), "{answer}");
}

#[tokio::test]
async fn an_endless_body_that_no_handler_reads_is_cut() {
    let env = start(patient()).await;
    let request = "POST /ignores HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n";

    let answer = write_forever(env.write(request).await, b"8\r\n12345678\r\n").await;

    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_cut() {
    let limits = Limits { write_timeout: SHORT, max_connections: 1, ..patient() };
    let env = start(limits).await;
    let _deaf = env.write("GET /big HTTP/1.1\r\nhost: localhost\r\n\r\n").await;

    // There is room for one connection, so this one waits for the end of the other.
    assert_eq!(env.get("/hello").await.code(), 200);
}

#[tokio::test]
async fn a_client_that_goes_away_frees_its_place() {
    let env = start(Limits { max_connections: 1, ..patient() }).await;
    let mut half_open = env.write("GET /waits HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    env.wait.begun().await;

    half_open.0.shutdown().await.unwrap();

    assert_eq!(env.get("/hello").await.code(), 200, "half a connection is none");
    assert_eq!(half_open.rest().await, "");
}

#[tokio::test]
async fn more_connections_than_the_bound_wait_their_turn() {
    let env = start(Limits { max_connections: 2, ..patient() }).await;
    let waits = "GET /waits HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(env.write(waits).await);
    }
    for _ in 0..2 {
        env.wait.begun().await;
    }
    assert_eq!(env.wait.begun.available_permits(), 0, "only two are with their handlers");

    env.wait.may_answer.add_permits(50);

    for client in &mut clients {
        assert!(client.rest().await.ends_with("waited"));
    }
}

#[tokio::test]
async fn bytes_that_are_not_http_are_refused() {
    let env = start(patient()).await;

    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let answer = env.write(bytes).await.rest().await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    let twice = "POST /length HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx";
    let answer = env.write(twice).await.rest().await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}
