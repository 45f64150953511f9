//! Bare loop of postgres: receive, insert with the statement of the service, acknowledge.
//!
//! It shares no code with the service. The data of a message is the rest column as it came, and nothing
//! is parsed. The program speaks with the measuring program as `bare` does.

#![expect(clippy::print_stdout, reason = "for measuring: nobody reads a part of it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use bytes::{BufMut as _, Bytes, BytesMut};
use clap::Parser;
use futures::FutureExt as _;
use google_cloud_auth::credentials::anonymous;
use google_cloud_pubsub::client::Subscriber;
use google_cloud_pubsub::subscriber::MessageStream;
use google_cloud_pubsub::subscriber::handler::Handler;
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;
use tokio_postgres::NoTls;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

/// Maximum rows of a statement, which is the default of postgres.
const MOST: usize = 5_000;
/// Streams of the subscription, as in the service.
const STREAMS: i64 = 2;
/// Messages that the loop holds, as in the service.
const OUTSTANDING: i64 = 10_000;

#[derive(Debug, Clone, Parser)]
struct LoopArgs {
    /// URL of the embedded cloud.
    #[arg(long)]
    endpoint: String,
    /// Login of the server.
    #[arg(long)]
    login: String,
    /// Statement that writes rows.
    #[arg(long)]
    insert: String,
    /// Number of messages to pass.
    #[arg(long)]
    messages: u64,
}

/// Rows of a statement, by column.
#[derive(Default)]
struct Batch {
    handlers: Vec<Handler>,
    ids: Vec<String>,
    times: Vec<SystemTime>,
    ingest_ids: Vec<Option<String>>,
    devices: Vec<Option<String>>,
    locations: Vec<Option<String>>,
    temperatures: Vec<Option<f64>>,
    rests: Vec<Jsonb>,
}

/// JSON as it came, which the server parses.
#[derive(Debug)]
struct Jsonb(Bytes);

impl ToSql for Jsonb {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        // The version of the binary form.
        out.put_u8(1);
        out.put_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(wanted: &Type) -> bool {
        *wanted == Type::JSONB
    }

    to_sql_checked!();
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // An error means that a provider is already installed.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let args = LoopArgs::parse();
    let nobody = anonymous::Builder::new().build();
    let subscriber = Subscriber::builder().with_endpoint(&args.endpoint).with_credentials(nobody);
    let subscriber = subscriber.build().await.context("subscriber")?;
    let left = Arc::new(AtomicI64::new(i64::try_from(args.messages)?));
    let mut tasks = JoinSet::new();
    println!("ready");
    for _ in 0..STREAMS {
        let stream = subscriber.subscribe("projects/local/subscriptions/bare");
        let stream = stream.set_max_outstanding_messages(OUTSTANDING / STREAMS).build();
        tasks.spawn(pass(args.clone(), stream, Arc::clone(&left)));
    }
    while left.load(Ordering::Relaxed) > 0 {
        tokio::select! {
            Some(ended) = tasks.join_next() => ended??,
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
        }
    }
    println!("done");
    tokio::io::stdin().read_to_end(&mut Vec::new()).await.context("wait for the end")?;
    Ok(())
}

async fn pass(
    args: LoopArgs,
    mut stream: MessageStream,
    left: Arc<AtomicI64>,
) -> anyhow::Result<()> {
    let (client, connection) = tokio_postgres::connect(&args.login, NoTls).await?;
    let mut packets = JoinSet::new();
    packets.spawn(connection);
    let statement = client.prepare(&args.insert).await.context("prepare the statement")?;
    loop {
        let batch = Batch::of(&mut stream).await?;
        let Batch { ids, times, ingest_ids, devices, locations, temperatures, rests, .. } = &batch;
        client
            .execute(&statement, &[ids, times, ingest_ids, devices, locations, temperatures, rests])
            .await
            .context("insert")?;
        left.fetch_sub(i64::try_from(batch.handlers.len())?, Ordering::Relaxed);
        batch.handlers.into_iter().for_each(Handler::ack);
    }
}

impl Batch {
    /// Receives at least one message, and further ones that have already arrived.
    async fn of(stream: &mut MessageStream) -> anyhow::Result<Self> {
        let mut batch = Self::default();
        while batch.ids.len() < MOST {
            let next = stream.next();
            let received = match batch.ids.is_empty() {
                true => next.await,
                false => match next.now_or_never() {
                    Some(received) => received,
                    None => break,
                },
            };
            let (mut message, handler) = received.context("the stream ended")??;
            batch.handlers.push(handler);
            batch.ids.push(message.message_id);
            batch.times.push(SystemTime::now());
            batch.ingest_ids.push(message.attributes.remove("ingest_id"));
            batch.devices.push(message.attributes.remove("device_id"));
            batch.locations.push(message.attributes.remove("route_name"));
            batch.temperatures.push(None);
            batch.rests.push(Jsonb(message.data));
        }
        Ok(batch)
    }
}
