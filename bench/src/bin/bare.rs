//! Bare loops: the part of a service that its clients cannot do without. They share no code with
//! the services.
//!
//! A loop prints `ready` to standard output, passes the given number of messages, and prints
//! `done`. Then it waits until its standard input ends, so that the measuring program can look at
//! the process.

#![expect(clippy::print_stdout, reason = "for measuring: nobody reads a part of it")]

#[path = "bare/ingest.rs"]
mod ingest;

use std::collections::VecDeque;
use std::io::{BufWriter, Write as _};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arrow_array::{ArrayRef, RecordBatch, StringArray};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{DataType, Field, Schema};
use bytes::Bytes;
use clap::{Parser, ValueEnum};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::StreamExt as _;
use futures::stream::FuturesOrdered;
use google_cloud_auth::credentials::{Credentials, anonymous};
use google_cloud_bigquery::client::Write;
use google_cloud_bigquery::model::{ArrowRecordBatch, ArrowSchema};
use google_cloud_pubsub::client::{Publisher, Subscriber};
use google_cloud_pubsub::model::Message;
use google_cloud_pubsub::subscriber::MessageStream;
use google_cloud_pubsub::subscriber::handler::Handler;
use google_cloud_storage::client::Storage;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;

/// Maximum rows of a request, which is the default of bigqueries.
const MOST: usize = 500;
/// Bytes of an object before compression.
const OBJECT_BYTES: usize = 16 << 20;
/// Streams of a subscription, as in the services.
const STREAMS: i64 = 2;
/// Size below which the client uploads in one request.
const SINGLE_UPLOAD: usize = 16 << 20;

#[derive(Debug, Clone, Parser)]
struct BareArgs {
    which: Which,
    /// URL of the embedded cloud.
    #[arg(long)]
    endpoint: String,
    /// Port of the broker, or to listen on.
    #[arg(long, default_value_t = 1883)]
    port: u16,
    /// Number of messages to pass.
    #[arg(long)]
    messages: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    /// MQTT: receive, publish, acknowledge.
    Ingestion,
    /// Pub/Sub: receive, publish, acknowledge.
    Enrich,
    /// Receive, append as one column of text, acknowledge.
    Bigqueries,
    /// Receive, gzip, upload, acknowledge.
    Icestore,
    /// HTTP: an item or an array in each request. Publish, answer.
    Http,
    /// gRPC: receive items of streams, publish, acknowledge.
    Grpc,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // An error means that a provider is already installed.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let args = BareArgs::parse();
    match args.which {
        Which::Ingestion => ingestion(&args).await?,
        Which::Enrich => enrich(&args).await?,
        Which::Bigqueries => bigqueries(&args).await?,
        Which::Icestore => icestore(&args).await?,
        Which::Http | Which::Grpc => ingest::serve(&args).await?,
    }
    println!("done");
    tokio::io::stdin().read_to_end(&mut Vec::new()).await.context("wait for the end")?;
    Ok(())
}

fn nobody() -> Credentials {
    anonymous::Builder::new().build()
}

async fn publisher(args: &BareArgs, topic: &str) -> anyhow::Result<Publisher> {
    let builder = Publisher::builder(format!("projects/local/topics/{topic}"));
    let builder = builder.with_endpoint(&args.endpoint).with_credentials(nobody());
    let builder = builder.set_message_count_threshold(1000);
    builder.set_delay_threshold(Duration::from_millis(5)).build().await.context("publisher")
}

async fn ingestion(args: &BareArgs) -> anyhow::Result<()> {
    let publisher = publisher(args, "bare-output").await?;
    let mut options = MqttOptions::new("bare", "127.0.0.1", args.port);
    options.set_manual_acks(true).set_clean_start(false);
    options.set_session_expiry_interval(Some(3600));
    options.set_receive_maximum(Some(1000)).set_max_packet_size(Some(16 << 20));
    let (client, mut events) = AsyncClient::new(options, usize::from(u16::MAX));
    client.subscribe("devices/+/up", QoS::AtLeastOnce).await?;
    let (taken, mut waiting) = tokio::sync::mpsc::unbounded_channel();
    // Polling must not be cancelled, so it has its own task.
    let mut poll = JoinSet::new();
    let only_subscribes = args.messages == 0;
    poll.spawn(async move {
        loop {
            match events.poll().await? {
                Event::Incoming(Packet::SubAck(_)) => {
                    println!("ready");
                    if only_subscribes {
                        return anyhow::Ok(());
                    }
                }
                Event::Incoming(Packet::Publish(publish)) => {
                    let message = Message::new().set_data(publish.payload.clone());
                    taken.send((publish, publisher.publish(message)))?;
                }
                _ => {}
            }
        }
    });
    for _ in 0..args.messages {
        let (publish, confirmed) = tokio::select! {
            Some(ended) = poll.join_next() => return ended?,
            Some(next) = waiting.recv() => next,
        };
        confirmed.await?;
        client.ack(&publish).await?;
    }
    if only_subscribes {
        return poll.join_next().await.context("the connection has ended")??;
    }
    Ok(())
}

/// Opens the streams of the subscription, one for each of several tasks.
async fn streams(args: &BareArgs) -> anyhow::Result<Vec<MessageStream>> {
    let subscriber = Subscriber::builder().with_endpoint(&args.endpoint);
    let subscriber = subscriber.with_credentials(nobody()).build().await.context("subscriber")?;
    // Icestore takes more messages at a time than the other services.
    let outstanding = if args.which == Which::Icestore { 50_000 } else { 10_000 };
    let open = |_| {
        let stream = subscriber.subscribe("projects/local/subscriptions/bare");
        stream.set_max_outstanding_messages(outstanding / STREAMS).build()
    };
    println!("ready");
    Ok((0..STREAMS).map(open).collect())
}

/// Number of messages that all tasks together must still pass.
#[derive(Debug, Clone)]
struct Left(Arc<std::sync::atomic::AtomicI64>);

impl Left {
    fn new(messages: u64) -> Self {
        Self(Arc::new(std::sync::atomic::AtomicI64::new(messages as i64)))
    }

    fn take(&self, count: usize) -> bool {
        self.0.fetch_sub(count as i64, std::sync::atomic::Ordering::Relaxed) > count as i64
    }

    fn is_over(&self) -> bool {
        self.0.load(std::sync::atomic::Ordering::Relaxed) <= 0
    }
}

/// Waits until the tasks have passed all messages. Tasks that wait for more are dropped.
async fn until_over(mut tasks: JoinSet<anyhow::Result<()>>, left: Left) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            Some(ended) = tasks.join_next() => ended??,
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
        }
        if left.is_over() {
            return Ok(());
        }
    }
}

async fn enrich(args: &BareArgs) -> anyhow::Result<()> {
    let publisher = publisher(args, "bare-output").await?;
    let left = Left::new(args.messages);
    let mut tasks = JoinSet::new();
    for mut stream in streams(args).await? {
        let (publisher, left) = (publisher.clone(), left.clone());
        tasks.spawn(async move {
            let mut sent = FuturesOrdered::new();
            loop {
                tokio::select! {
                    Some(received) = stream.next() => {
                        let (message, handler) = received?;
                        let again = Message::new().set_data(message.data);
                        let confirmed = publisher.publish(again.set_attributes(message.attributes));
                        sent.push_back(async move { (handler, confirmed.await) });
                    }
                    Some((handler, confirmed)) = sent.next() => {
                        confirmed?;
                        Handler::ack(handler);
                        left.take(1);
                    }
                }
            }
        });
    }
    until_over(tasks, left).await
}

async fn bigqueries(args: &BareArgs) -> anyhow::Result<()> {
    let client = Write::builder().with_endpoint(&args.endpoint).with_credentials(nobody());
    let client = client.build().await.context("build the client")?;
    let schema = Arc::new(Schema::new(vec![Field::new("data", DataType::Utf8, true)]));
    let left = Left::new(args.messages);
    let mut tasks = JoinSet::new();
    for mut stream in streams(args).await? {
        let said = StreamWriter::try_new(Vec::new(), &schema)?.get_ref().clone();
        let header = said.len();
        let writer = client.open_default_stream("projects/local/datasets/dataflow/tables/bare");
        let said = ArrowSchema::new().set_serialized_schema(said);
        let writer = writer.build_arrow(said).await?;
        let (schema, left) = (Arc::clone(&schema), left.clone());
        tasks.spawn(async move {
            let mut appended = FuturesOrdered::new();
            loop {
                let batch = tokio::select! {
                    Some((handlers, answer)) = appended.next() => {
                        let handlers: Vec<Handler> = handlers;
                        answer?;
                        left.take(handlers.len());
                        handlers.into_iter().for_each(Handler::ack);
                        continue;
                    }
                    batch = batch_of(&mut stream, MOST) => batch?,
                };
                let (handlers, data): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
                let texts = data.iter().map(|data| std::str::from_utf8(data).ok());
                let column: ArrayRef = Arc::new(StringArray::from_iter(texts));
                let rows = RecordBatch::try_new(Arc::clone(&schema), vec![column])?;
                let mut encoded = StreamWriter::try_new(Vec::new(), &schema)?;
                encoded.write(&rows)?;
                let bytes = Bytes::from(std::mem::take(encoded.get_mut())).slice(header..);
                let rows = ArrowRecordBatch::new().set_serialized_record_batch(bytes);
                let answer = writer.append(rows).send();
                appended.push_back(async move { (handlers, answer.await) });
            }
        });
    }
    until_over(tasks, left).await
}

async fn icestore(args: &BareArgs) -> anyhow::Result<()> {
    let storage = Storage::builder().with_endpoint(&args.endpoint).with_credentials(nobody());
    let storage = storage.with_resumable_upload_threshold(SINGLE_UPLOAD).build().await?;
    let left = Left::new(args.messages);
    let mut tasks = JoinSet::new();
    for (lane, mut stream) in streams(args).await?.into_iter().enumerate() {
        let (storage, left) = (storage.clone(), left.clone());
        tasks.spawn(async move {
            for number in 0.. {
                let gzip = GzEncoder::new(Vec::new(), Compression::fast());
                let mut lines = BufWriter::with_capacity(64 << 10, gzip);
                let mut handlers = Vec::new();
                let mut bytes = 0;
                // The last object has the messages that are left over.
                while bytes < OBJECT_BYTES {
                    let wait = Duration::from_millis(200);
                    match tokio::time::timeout(wait, stream.next()).await {
                        Ok(Some(received)) => {
                            let (message, handler) = received?;
                            bytes += message.data.len();
                            lines.write_all(&message.data)?;
                            lines.write_all(b"\n")?;
                            handlers.push(handler);
                        }
                        Ok(None) => anyhow::bail!("the stream ended"),
                        Err(_) if handlers.is_empty() => {}
                        Err(_) => break,
                    }
                }
                let gzip = lines.into_inner().map_err(std::io::IntoInnerError::into_error)?;
                let object = Bytes::from(gzip.finish()?);
                let name = format!("bare/{}-{lane}-{number}.gz", std::process::id());
                let upload = storage.write_object("projects/_/buckets/archive", name, object);
                Box::pin(upload.set_if_generation_match(0).send_unbuffered()).await?;
                left.take(handlers.len());
                handlers.into_iter().for_each(Handler::ack);
            }
            Ok(())
        });
    }
    until_over(tasks, left).await
}

/// Receives at least one message, and further ones that have already arrived.
async fn batch_of(
    stream: &mut MessageStream,
    most: usize,
) -> anyhow::Result<VecDeque<(Handler, Bytes)>> {
    let mut batch = VecDeque::new();
    while batch.len() < most {
        let next = stream.next();
        let received = if batch.is_empty() {
            next.await
        } else {
            match futures::FutureExt::now_or_never(next) {
                Some(received) => received,
                None => break,
            }
        };
        let (message, handler) = received.context("the stream ended")??;
        batch.push_back((handler, message.data));
    }
    Ok(batch)
}
