//! Tests of ingest over gRPC: what was acknowledged is published, or is a dead letter.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use e2e::metrics::{RECEIVED, SENT};
use ingestion::proto::ingest_client::IngestClient;
use ingestion::proto::item_result::Outcome;
use ingestion::proto::{
    Ack, Item, ItemResult, PublishRequest, PublishStreamRequest, PublishStreamResponse,
};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::flow_env::{GRACE, PATIENCE, counter, next_dead_letter, until};
use crate::ingest_env::{ALWAYS, IngestEnv};

/// Client of the port.
async fn client(env: &IngestEnv) -> IngestClient<Channel> {
    let channel = Channel::from_shared(format!("http://{}", env.address)).unwrap();
    IngestClient::new(channel.connect().await.unwrap())
}

fn item(number: u64) -> Item {
    let payload = Some(format!(r#"{{"n": {number}.50}}"#).into_bytes());
    Item { source_id: format!("sensor-{}", number % 10), payload, ..Item::default() }
}

fn request(items: Vec<Item>) -> PublishRequest {
    PublishRequest { items, ..PublishRequest::default() }
}

fn id(result: &ItemResult) -> Option<String> {
    match result.outcome.as_ref().unwrap() {
        Outcome::Accepted(accepted) => Some(accepted.id.clone()),
        Outcome::Refused(_) => None,
    }
}

/// Opens a stream of items. The client's side ends with the sender.
async fn open(
    env: &IngestEnv,
) -> (mpsc::Sender<PublishStreamRequest>, Streaming<PublishStreamResponse>) {
    open_with(&mut client(env).await).await.unwrap()
}

/// Opens a stream of items on the connection of a client.
async fn open_with(
    client: &mut IngestClient<Channel>,
) -> Result<(mpsc::Sender<PublishStreamRequest>, Streaming<PublishStreamResponse>), Status> {
    let (sender, mut requests) = mpsc::channel(1);
    let requests = futures::stream::poll_fn(move |context| requests.poll_recv(context));
    let answers = client.publish_stream(requests).await?;
    Ok((sender, answers.into_inner()))
}

/// Sends items until the number is reached, or the stream has ended.
async fn feed(sender: mpsc::Sender<PublishStreamRequest>, count: u64) {
    for sequence in 0..count {
        let request = PublishStreamRequest { sequence, item: Some(item(sequence)) };
        if sender.send(request).await.is_err() {
            return;
        }
    }
}

/// Reads acknowledgements until there are so many, or the stream ends.
async fn acks(answers: &mut Streaming<PublishStreamResponse>, count: usize) -> Vec<Ack> {
    let mut acks = Vec::new();
    while acks.len() < count {
        match timeout(PATIENCE, answers.message()).await.unwrap() {
            Ok(Some(answer)) => acks.extend(answer.acks),
            Ok(None) | Err(_) => break,
        }
    }
    acks
}

fn ids(acks: &[Ack]) -> BTreeSet<String> {
    acks.iter().filter_map(|ack| id(ack.result.as_ref().unwrap())).collect()
}

async fn published_ids(env: &IngestEnv, count: usize) -> BTreeSet<String> {
    env.published(count).await.into_iter().map(|one| one.ingest_id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_means_that_the_message_is_published() {
    let env = IngestEnv::start(|_, _| {}).await;

    let told = client(&env).await.publish(request(vec![item(1), item(2)])).await.unwrap();
    let (sender, mut answers) = open(&env).await;
    feed(sender, 3).await;
    let acks = acks(&mut answers, usize::MAX).await;

    let mut told: BTreeSet<_> = told.into_inner().results.iter().filter_map(id).collect();
    told.extend(ids(&acks));
    let published = env.published(5).await;
    assert_eq!(published.iter().map(|one| one.ingest_id.clone()).collect::<BTreeSet<_>>(), told);
    let first = published.iter().find(|one| one.attributes["device_id"] == "sensor-0").unwrap();
    assert_eq!(first.envelope.payload, Some(br#"{"n": 0.50}"#.as_slice().into()));
    assert_eq!(first.attributes["http_source"], "sensor-0");
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_waits_for_a_destination_that_is_away_and_not_longer_than_its_time() {
    let env = IngestEnv::start(|_, http| http.timeout = Duration::from_secs(6)).await;
    let faults = env.cloud().faults().clone();
    faults.refuse("Publish", ALWAYS, Code::Unavailable);
    let begun = Instant::now();
    let (sender, mut answers) = open(&env).await;
    feed(sender.clone(), 1).await;
    let mut unary = client(&env).await;

    let recovers = async {
        sleep(Duration::from_secs(3)).await;
        faults.clear();
    };
    let called = unary.publish(request(vec![item(1)]));
    let (called, acks_in_time, ()) = tokio::join!(called, acks(&mut answers, 1), recovers);

    assert!(begun.elapsed() >= Duration::from_secs(3));
    let called = id(&called.unwrap().into_inner().results[0]).unwrap();
    assert_eq!(
        published_ids(&env, 2).await,
        [called].into_iter().chain(ids(&acks_in_time)).collect()
    );
    env.cloud().faults().refuse("Publish", ALWAYS, Code::Unavailable);
    let request_9 = PublishStreamRequest { sequence: 9, item: Some(item(9)) };
    sender.send(request_9).await.unwrap();
    let called = unary.publish(request(vec![item(9)]));
    let (called, late) = tokio::join!(called, acks(&mut answers, 1));
    assert_eq!(called.unwrap_err().code(), Code::Unavailable);
    let Some(Outcome::Refused(refused)) = &late[0].result.as_ref().unwrap().outcome else {
        panic!("{late:?}");
    };
    assert_eq!((Code::from(refused.code), late[0].sequence), (Code::Unavailable, 9));
    assert!(refused.retry_after.is_some());
    until(async || env.is_idle()).await;
    env.cloud().faults().clear();
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_destination_slows_streams_down_and_loses_nothing() {
    let env = IngestEnv::start(|_, http| http.max_waiting_bytes = 2 * 1024 * 1024).await;
    env.cloud().faults().delay("Publish", ALWAYS, Duration::from_millis(200));

    let mut streams = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (sender, mut answers) = open(&env).await;
        streams.spawn(
            async move { tokio::join!(feed(sender, 3000), acks(&mut answers, usize::MAX)).1 },
        );
    }
    let (mut told, mut most) = (BTreeSet::new(), 0);
    while !streams.is_empty() {
        most = most.max(counter(&env.ingestion, "dataflow_pipeline_in_flight_messages"));
        if let Ok(Some(acks)) = timeout(Duration::from_millis(20), streams.join_next()).await {
            told.extend(ids(&acks.unwrap()));
        }
    }

    // Each takes 1 KiB of the bound.
    assert!(most <= 2048, "{most} messages in memory");
    assert_eq!(told.len(), 12_000);
    env.cloud().faults().clear();
    assert_eq!(published_ids(&env, 12_000).await, told);
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_cut_leaves_nothing_unaccounted() {
    let env = IngestEnv::start(|_, _| {}).await;
    env.cloud().faults().delay("Publish", 1, Duration::from_secs(2));
    let (sender, answers) = open(&env).await;
    let feeding = tokio::spawn(feed(sender, 1_000_000));
    until(async || counter(&env.ingestion, RECEIVED) > 100).await;

    // Both sides of the stream go away, as they do when a client dies.
    drop(answers);
    feeding.abort();
    assert!(feeding.await.is_err_and(|error| error.is_cancelled()));

    until(async || env.is_idle()).await;
    let received = counter(&env.ingestion, RECEIVED);
    let nacked = counter(&env.ingestion, "dataflow_pipeline_nacked_messages_total");
    assert_eq!(received, counter(&env.ingestion, SENT) + nacked);
    assert!(client(&env).await.publish(request(vec![item(1)])).await.is_ok());
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_takes_no_acknowledgements_is_cut_and_its_neighbour_goes_on() {
    let env = IngestEnv::start(|_, _| {}).await;
    let mut shared = client(&env).await;
    let (neighbour, mut told) = open_with(&mut shared).await.unwrap();
    let (sender, answers) = open_with(&mut shared).await.unwrap();

    drop(answers);
    // It ends when the server resets the stream, after half a minute.
    let fed = timeout(PATIENCE, feed(sender, 100_000_000)).await;

    assert!(fed.is_ok(), "the stream is still open");
    feed(neighbour, 3).await;
    assert_eq!(acks(&mut told, 3).await.len(), 3);
    assert!(shared.publish(request(vec![item(1)])).await.is_ok());
    until(async || env.is_idle()).await;
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_last_acknowledgement_is_not_taken_ends() {
    let env = IngestEnv::start(|_, http| http.max_waiting = 1).await;
    let channel = Channel::from_shared(format!("http://{}", env.address)).unwrap();
    let channel = channel.initial_stream_window_size(0).connect().await.unwrap();
    let (sender, _answers) = open_with(&mut IngestClient::new(channel)).await.unwrap();
    feed(sender, 2).await;
    let mut other = client(&env).await;
    assert_eq!(open_with(&mut other).await.unwrap_err().code(), Code::ResourceExhausted);

    // Its place is free after half a minute.
    until(async || open_with(&mut other).await.is_ok()).await;

    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_under_load_acknowledges_what_was_published() {
    let env = IngestEnv::start(|_, _| {}).await;
    let (sender, mut answers) = open(&env).await;
    let feeding = tokio::spawn(feed(sender, 1_000_000));
    let mut told = acks(&mut answers, 1000).await;
    let IngestEnv { flow, ingestion, address, client } = env;

    let begun = Instant::now();
    let ending = tokio::spawn(ingestion.shutdown(GRACE));
    let end = loop {
        match timeout(PATIENCE, answers.message()).await.unwrap() {
            Ok(Some(answer)) => told.extend(answer.acks),
            Ok(None) => panic!("the client has not ended the stream"),
            Err(status) => break status,
        }
    };

    assert_eq!(end.code(), Code::Unavailable, "{end}");
    ending.await.unwrap().unwrap();
    assert!(begun.elapsed() < GRACE);
    assert!(TcpStream::connect(&address).await.is_err());
    feeding.await.unwrap();
    let told = ids(&told);
    let mut published = BTreeSet::new();
    until(async || {
        let name = flow.cloud.name(crate::flow_env::RAW_ARCHIVE);
        let pulled = flow.cloud.pull(&name).await.unwrap();
        published.extend(pulled.into_iter().map(|one| one.attributes["ingest_id"].clone()));
        told.is_subset(&published)
    })
    .await;
    drop(client);
    flow.teardown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_learns_that_its_item_is_a_dead_letter() {
    let env = IngestEnv::start(|_, http| {
        http.max_body_bytes = 16 * 1024 * 1024;
        http.max_waiting_bytes = 64 * 1024 * 1024;
    })
    .await;
    let hopeless = Item { payload: Some(vec![b'x'; 8_000_000]), ..item(1) };

    let told = client(&env).await.publish(request(vec![hopeless])).await.unwrap().into_inner();

    let Some(Outcome::Accepted(accepted)) = &told.results[0].outcome else { panic!("{told:?}") };
    assert_eq!(accepted.dead_letter, "message_too_large");
    let letter = next_dead_letter(&env.flow).await;
    assert_eq!(letter.attributes["ingest_id"], accepted.id);
    env.stop().await;
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Generates the client of Python into a folder. Returns the interpreter, if it is installed.
async fn generate(folder: &Path) -> Option<PathBuf> {
    let python = root().join("target/grpc-client/bin/python");
    if !python.exists() {
        // Writes to stderr directly, because the test runner captures printed output.
        let text = b"SKIPPED: grpcio-tools is missing in target/grpc-client; run .ci/setup\n";
        std::io::stderr().write_all(text).unwrap();
        return None;
    }
    let protos = root().join("services/ingestion/proto");
    let out = folder.display();
    let output = Command::new(&python)
        .args(["-m", "grpc_tools.protoc", "-I"])
        .arg(&protos)
        .args([format!("--python_out={out}"), format!("--grpc_python_out={out}")])
        .arg(protos.join("dataflow/ingest/v1/ingest.proto"))
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(python)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_was_generated_for_python_has_all_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let Some(python) = generate(folder.path()).await else { return };
    let env = IngestEnv::start(|_, _| {}).await;
    until(async || env.ingestion.health().is_ready()).await;

    let mut command = Command::new(python);
    command.arg(root().join("e2e/clients/python/ingest.py")).arg(folder.path());
    command.arg(&env.address).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await.expect("the program ends").unwrap();

    let printed = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}{errors}");
    let passed = printed.lines().filter(|line| line.starts_with("PASS ")).count();
    assert_eq!(passed, 11, "{printed}{errors}");
    env.stop().await;
}
