//! Measurement of ingest over HTTP and gRPC. Each way is compared with a bare loop in the same run.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use e2e::names::ROUTE;
use e2e::process::free_port;
use e2e::reading::Reading;
use ingestion::proto::ingest_client::IngestClient;
use ingestion::proto::{Item, PublishStreamRequest};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::transport::Channel;

use crate::case::{Case, Load};
use crate::env::BenchEnv;
use crate::process;
use crate::service::Service;
use crate::table::{Measured, Row};

/// Size of a payload.
const PAYLOAD_BYTES: usize = 1024;
/// Items in a batch.
const BATCH: u64 = 100;
/// Messages of a stream that wait in the client.
const WINDOW: usize = 1000;

/// Way in which messages are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// An item in each request, on connections that stay open.
    Single,
    /// Requests with 100 items.
    Batches,
    /// Streams of gRPC.
    Streams,
}

impl Way {
    pub(crate) const ALL: [Self; 3] = [Self::Single, Self::Batches, Self::Streams];

    fn name(self) -> &'static str {
        match self {
            Self::Single => "1 KB, HTTP, one item a request",
            Self::Batches => "1 KB, HTTP, 100 items a request",
            Self::Streams => "1 KB, gRPC streams",
        }
    }

    fn bare(self) -> &'static str {
        match self {
            Self::Single | Self::Batches => "http",
            Self::Streams => "grpc",
        }
    }

    /// Returns the number of connections. Single requests need many, because each waits.
    fn connections(self) -> u64 {
        match self {
            Self::Single => 200,
            Self::Batches => 16,
            Self::Streams => 4,
        }
    }
}

/// Measures a way several times, each time with the bare loop and then with the service.
pub(crate) async fn measure(way: Way, messages: u64, repeats: usize) -> anyhow::Result<Row> {
    // Every connection sends the same number of whole batches.
    let unit = way.connections() * if way == Way::Batches { BATCH } else { 1 };
    let messages = (messages / unit).max(1) * unit;
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..repeats {
        let env = BenchEnv::start_with(&Service::Ingestion.subscriptions(), 0).await?;
        bare.push(run_bare(&env, way, messages).await.context("run the bare loop")?);
        ours.push(run_service(&env, way, messages).await.context("run the service")?);
        env.stop().await?;
    }
    let load = Load {
        messages,
        payload_bytes: PAYLOAD_BYTES,
        devices: 100,
        locations: 1,
        unknown_percent: 0,
    };
    let case = Case::new(Service::Ingestion, way.name(), load);
    Ok(Row::new(&case, Measured::median(&ours), Measured::median(&bare), None))
}

async fn run_bare(env: &BenchEnv, way: Way, messages: u64) -> anyhow::Result<Measured> {
    let (port, url) = (free_port()?, env.servers.server.url());
    let run = process::bare(way.bare(), &url, port, messages);
    let (measured, ()) = tokio::try_join!(run, send(way, port, messages))?;
    Ok(measured)
}

async fn run_service(env: &BenchEnv, way: Way, messages: u64) -> anyhow::Result<Measured> {
    let port = free_port()?;
    let changes = json!({
        "http_ingest": { "port": port },
        "routes": { "over_http": {
            "source": { "http_source": "{device_id}" },
            "destination": { "route_name": ROUTE },
        } },
    });
    let settings = env.settings(Service::Ingestion, &changes)?;
    let folder = env.servers.folder.path();
    let (process, ready_in) = process::start(folder, Service::Ingestion, &settings).await?;
    let run = process::measure(process, ready_in, messages);
    let (measured, ()) = tokio::try_join!(run, send(way, port, messages))?;
    Ok(measured)
}

/// Sends all messages, and returns when each is acknowledged.
async fn send(way: Way, port: u16, messages: u64) -> anyhow::Result<()> {
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        sleep(Duration::from_millis(10)).await;
    }
    let mut connections = JoinSet::new();
    let share = messages / way.connections();
    for index in 0..way.connections() {
        let numbers = index * share..(index + 1) * share;
        match way {
            Way::Single => connections.spawn(over_http(port, numbers, 1)),
            Way::Batches => connections.spawn(over_http(port, numbers, BATCH)),
            Way::Streams => connections.spawn(over_grpc(port, numbers)),
        };
    }
    while let Some(ended) = connections.join_next().await {
        ended.context("a connection panicked")??;
    }
    Ok(())
}

fn reading(number: u64) -> Reading {
    Reading { device: u32::try_from(number % 100).unwrap_or(0), number }
}

fn item(number: u64) -> String {
    let reading = reading(number);
    let payload = reading.payload("bench", PAYLOAD_BYTES);
    let (source, payload) = (reading.device_name(), String::from_utf8_lossy(&payload));
    format!(r#"{{"sourceId":"{source}","payload":{payload}}}"#)
}

/// Sends requests on one connection. It writes HTTP by itself, so that the client takes little of the
/// machine.
async fn over_http(port: u16, numbers: std::ops::Range<u64>, size: u64) -> anyhow::Result<()> {
    let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", port)).await?);
    stream.get_ref().set_nodelay(true)?;
    let mut line = String::new();
    for start in numbers.step_by(usize::try_from(size)?) {
        let items: Vec<_> = (start..start + size).map(item).collect();
        let body = if size == 1 { items.concat() } else { format!("[{}]", items.join(",")) };
        let request = format!(
            "POST /ingest HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.get_mut().write_all(request.as_bytes()).await?;
        line.clear();
        stream.read_line(&mut line).await?;
        ensure!(line.starts_with("HTTP/1.1 20"), "answered with {line}");
        let mut length = 0;
        loop {
            line.clear();
            stream.read_line(&mut line).await?;
            let header = line.trim_end().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
        }
        stream.read_exact(&mut vec![0; length]).await?;
    }
    Ok(())
}

/// Sends items on one stream.
async fn over_grpc(port: u16, numbers: std::ops::Range<u64>) -> anyhow::Result<()> {
    let channel = Channel::from_shared(format!("http://127.0.0.1:{port}"))?.connect().await?;
    let (sender, mut requests) = mpsc::channel(WINDOW);
    let requests = futures::stream::poll_fn(move |context| requests.poll_recv(context));
    let mut answers = IngestClient::new(channel).publish_stream(requests).await?.into_inner();
    let count = numbers.end - numbers.start;
    let feeding = async {
        for sequence in numbers {
            let reading = reading(sequence);
            let payload = Some(reading.payload("bench", PAYLOAD_BYTES));
            let source_id = reading.device_name();
            let item = Some(Item { source_id, payload, ..Item::default() });
            sender.send(PublishStreamRequest { sequence, item }).await?;
        }
        drop(sender);
        anyhow::Ok(())
    };
    let reading = async {
        let mut acknowledged = 0;
        // The service may end once it has received everything.
        while acknowledged < count {
            let answer = answers.message().await?.context("the stream ended early")?;
            acknowledged += answer.acks.len() as u64;
        }
        Ok(())
    };
    tokio::try_join!(feeding, reading)?;
    Ok(())
}
