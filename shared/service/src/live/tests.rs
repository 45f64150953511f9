use pipeline::Reasons;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;
use crate::settings::Http;

/// Maximum wait for an expected event.
const PATIENCE: Duration = Duration::from_secs(60);
const KEY: &str = "0123456789abcdef0123456789abcdef";

struct Server {
    port: u16,
    context: Context,
    tasks: JoinSet<anyhow::Result<()>>,
}

async fn server(key_file: Option<PathBuf>) -> Server {
    let http = Http { host: "127.0.0.1".into(), port: 0, live_key_file: None };
    let (listener, address) = crate::http::bind(&http).await.unwrap();
    let context = Context::default();
    let _metrics = context.registry.pipeline("test", &Reasons { refused: &[], skipped: &[] });
    let routes = crate::http::check(crate::Routes::new()).unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(crate::http::serve(listener, context.clone(), key_file, routes));
    Server { port: address.port(), context, tasks }
}

async fn open(server: &Server, path: &str, header: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    let question = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{header}\r\n");
    stream.write_all(question.as_bytes()).await.unwrap();
    stream
}

/// Returns the beginning of an answer, up to this text.
async fn until(stream: &mut TcpStream, text: &str) -> String {
    let mut answer = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&answer).contains(text) {
            answer.push(stream.read_u8().await.unwrap());
        }
    };
    if timeout(PATIENCE, reading).await.is_err() {
        panic!("no {text} in {}", String::from_utf8_lossy(&answer));
    }
    String::from_utf8(answer).unwrap()
}

async fn status(server: &Server, path: &str, header: &str) -> String {
    let mut stream = open(server, path, header).await;
    until(&mut stream, "\r\n\r\n").await
}

#[tokio::test]
async fn a_viewer_watches_from_the_answer_on_until_it_leaves() {
    let server = server(None).await;
    let mut stream = open(&server, "/live/events?device=a", "").await;

    let answer = until(&mut stream, ": watching").await;

    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("content-type: text/event-stream"), "{answer}");
    let hops = server.context.registry.hops();
    assert_eq!(hops.viewers(), 1);
    drop(stream);
    let gone = async {
        while hops.is_watched() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, gone).await.unwrap();
}

#[tokio::test]
async fn streams_end_with_the_server() {
    let mut server = server(None).await;
    let mut stream = open(&server, "/live/events?tap=true", "").await;
    until(&mut stream, ": watching").await;

    server.tasks.shutdown().await;

    let mut rest = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap().unwrap();
}

#[tokio::test]
async fn with_a_key_in_the_settings_every_caller_needs_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, KEY).unwrap();
    let (with, without) = (server(Some(file)).await, server(None).await);
    let proxied = "X-Forwarded-For: 10.0.0.1\r\n";
    let right = format!("{proxied}X-Api-Key: {KEY}\r\n");

    for path in ["/live/dead-letters", "/live/events?tap=true"] {
        let refused = [(&with, ""), (&with, proxied), (&without, proxied), (&without, &*right)];
        for (server, header) in refused {
            let answer = status(server, path, header).await;
            assert!(answer.starts_with("HTTP/1.1 403 "), "{path}: {answer}");
            assert!(answer.contains("content-type: application/problem+json"), "{answer}");
        }
        assert!(status(&with, path, &right).await.starts_with("HTTP/1.1 200 "), "{path}");
        assert!(status(&without, path, "").await.starts_with("HTTP/1.1 200 "), "{path}");
    }
    let probe = status(&without, "/healthz", proxied).await;
    assert!(probe.starts_with("HTTP/1.1 200 "), "probes need no key: {probe}");
}

#[tokio::test]
async fn a_viewer_says_what_it_wants_to_see() {
    let server = server(None).await;

    for wrong in ["", "?tap=false", "?devices=a", "?tap=perhaps"] {
        let answer = status(&server, &format!("/live/events{wrong}"), "").await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{wrong}: {answer}");
    }
}
