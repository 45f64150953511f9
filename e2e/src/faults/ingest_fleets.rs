//! Fleets that send over HTTP and gRPC. A reading counts as acknowledged after a 2xx or OK alone.
//!
//! After any other answer, or none, the reading is sent again with the same id, to another replica.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use ingestion::proto::ingest_client::IngestClient;
use ingestion::proto::item_result::Outcome;
use ingestion::proto::{Ack, Item, PublishStreamRequest};
use reqwest::{Client, Response, StatusCode};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tonic::Code;
use tonic::transport::Channel;
use tracing::debug;

use super::fault_env::{DEVICE_COUNT, FaultEnv};
use crate::fleet::{Fleet, FleetPlan, Readings};
use crate::reading::Reading;

/// Maximum wait for an answer. It is longer than `http_ingest.timeout`.
const PATIENCE: Duration = Duration::from_secs(20);
/// Pause after an answer that is no acknowledgement.
const PAUSE: Duration = Duration::from_millis(100);
/// Readings in a batch.
const BATCH: usize = 20;
/// Most readings of a stream without an acknowledgement.
const WINDOW: usize = 100;

/// Starts fleets that send in three ways: single items and batches over HTTP, and streams of gRPC.
pub(super) fn start(env: &Arc<FaultEnv>, rate: u32) -> [Fleet; 3] {
    let plan = || FleetPlan {
        devices: DEVICE_COUNT,
        rate,
        payload_bytes: 300,
        connections: 2,
        ..FleetPlan::default()
    };
    let target = |index| Target { env: Arc::clone(env), choice: index };
    [
        Fleet::start_with(plan(), |index, readings| send_over_http(readings, target(index), 1)),
        Fleet::start_with(plan(), |index, readings| send_over_http(readings, target(index), BATCH)),
        Fleet::start_with(plan(), |index, readings| send_over_grpc(readings, target(index))),
    ]
}

/// Replica that takes readings.
struct Target {
    env: Arc<FaultEnv>,
    choice: u32,
}

impl Target {
    /// Returns the address of a replica, another one at each call.
    async fn next(&mut self) -> anyhow::Result<String> {
        self.choice = self.choice.wrapping_add(1);
        let replica = self.env.replica("ingestion", self.choice)?;
        let status =
            replica.ask("status", Duration::from_secs(1)).await.context("ask a replica")?;
        let status: Value = serde_json::from_str(&status).context("read its status")?;
        let address = status["http_ingest"].as_str();
        Ok(address.context("it takes nothing over HTTP yet")?.to_owned())
    }
}

async fn send_over_http(readings: Readings, mut target: Target, size: usize) {
    // It keeps connections open.
    let client = Client::new();
    let mut address = None;
    let mut unsent: Vec<Reading> = Vec::new();
    let mut is_over = false;
    while !is_over || !unsent.is_empty() {
        // The readings of a batch that was refused in part wait for others.
        while !is_over && unsent.len() < size {
            match readings.next().await {
                Some(reading) => unsent.push(reading),
                None => is_over = true,
            }
        }
        let sent = post(&client, &readings, &mut target, &mut address, &unsent);
        match sent.await {
            Ok(accepted) => {
                for reading in unsent.extract_if(.., |reading| accepted.contains(reading)) {
                    readings.acknowledge(reading);
                }
            }
            // A connection that is cut says nothing about the readings.
            Err(error) => {
                debug!(%error, "send again");
                address = None;
            }
        }
        if !unsent.is_empty() {
            sleep(PAUSE).await;
        }
    }
}

/// Posts readings, and returns those that were accepted.
async fn post(
    client: &Client,
    readings: &Readings,
    target: &mut Target,
    address: &mut Option<String>,
    unsent: &[Reading],
) -> anyhow::Result<Vec<Reading>> {
    if unsent.is_empty() {
        return Ok(Vec::new());
    }
    let to = match address.as_ref() {
        Some(address) => address,
        None => address.insert(target.next().await?),
    };
    let items = unsent.iter().map(|reading| {
        let payload = String::from_utf8_lossy(&readings.payload(*reading)).into_owned();
        let (source, id) = (reading.device_name(), readings.id(*reading));
        format!(r#"{{"sourceId":"{source}","id":"{id}","payload":{payload}}}"#)
    });
    let items: Vec<_> = items.collect();
    let is_single = items.len() == 1;
    let body = if is_single { items.concat() } else { format!("[{}]", items.join(",")) };
    let post = client.post(format!("http://{to}/ingest")).timeout(PATIENCE);
    let response = post.header("content-type", "application/json").body(body).send().await?;
    if is_single { of_single(&response, unsent) } else { of_batch(response, unsent).await }
}

fn of_single(response: &Response, unsent: &[Reading]) -> anyhow::Result<Vec<Reading>> {
    let status = response.status();
    if status == StatusCode::ACCEPTED {
        return Ok(unsent.to_vec());
    }
    assert!(may_retry(status.as_u16()), "a good reading was refused for ever: {status}");
    bail!("{status}")
}

async fn of_batch(response: Response, unsent: &[Reading]) -> anyhow::Result<Vec<Reading>> {
    let status = response.status();
    let body: Value = response.json().await?;
    let Some(results) = body["results"].as_array() else {
        assert!(may_retry(status.as_u16()), "a batch was refused for ever: {status}: {body}");
        bail!("{status}")
    };
    ensure!(results.len() == unsent.len(), "{} results", results.len());
    let accepted = results.iter().zip(unsent).filter(|(result, _)| {
        let status = result["status"].as_u64().and_then(|status| u16::try_from(status).ok());
        let is_accepted = status == Some(202);
        let is_right = is_accepted || status.is_some_and(may_retry);
        assert!(is_right, "a good reading was refused for ever: {result}");
        is_accepted
    });
    let accepted: Vec<_> = accepted.map(|(_, reading)| *reading).collect();
    assert!(!status.is_success() || accepted.len() == unsent.len(), "{status}: {body}");
    Ok(accepted)
}

fn may_retry(status: u16) -> bool {
    [408, 429, 503].contains(&status)
}

async fn send_over_grpc(readings: Readings, mut target: Target) {
    let (feed, mut fed) = mpsc::channel(1);
    let feeding = async {
        while let Some(reading) = readings.next().await {
            if feed.send(reading).await.is_err() {
                return;
            }
        }
        drop(feed);
    };
    let sending = async {
        let mut open = BTreeMap::new();
        loop {
            let streamed = stream(&readings, &mut target, &mut fed, &mut open).await;
            match streamed {
                Ok(()) => return,
                Err(error) => debug!(%error, "open another stream"),
            }
            sleep(PAUSE).await;
        }
    };
    tokio::join!(feeding, sending);
}

/// Sends readings on one stream. Returns once all are acknowledged, or an error when the rest must be
/// sent again. `open` are the readings without an acknowledgement, by number.
async fn stream(
    readings: &Readings,
    target: &mut Target,
    fed: &mut mpsc::Receiver<Reading>,
    open: &mut BTreeMap<u64, Reading>,
) -> anyhow::Result<()> {
    let address = target.next().await?;
    let channel = Channel::from_shared(format!("http://{address}"))?.connect().await?;
    let (sender, mut requests) = mpsc::channel(WINDOW);
    let request = |reading: Reading| PublishStreamRequest {
        sequence: reading.number,
        item: Some(Item {
            source_id: reading.device_name(),
            payload: Some(readings.payload(reading)),
            id: Some(readings.id(reading)),
            timestamp: None,
        }),
    };
    for reading in open.values() {
        sender.send(request(*reading)).await?;
    }
    let requests = futures::stream::poll_fn(move |context| requests.poll_recv(context));
    let opened = timeout(PATIENCE, IngestClient::new(channel).publish_stream(requests)).await?;
    let mut answers = opened?.into_inner();
    let mut is_over = false;
    while !is_over || !open.is_empty() {
        tokio::select! {
            answer = timeout(PATIENCE, answers.message()), if !open.is_empty() => {
                let answer = answer.context("no acknowledgement came")??;
                for ack in answer.context("the server has ended the stream")?.acks {
                    settle(readings, open, ack)?;
                }
            }
            reading = fed.recv(), if !is_over && open.len() < WINDOW => match reading {
                Some(reading) => {
                    open.insert(reading.number, reading);
                    sender.send(request(reading)).await?;
                }
                None => is_over = true,
            },
        }
    }
    Ok(())
}

fn settle(readings: &Readings, open: &mut BTreeMap<u64, Reading>, ack: Ack) -> anyhow::Result<()> {
    match ack.result.and_then(|result| result.outcome).context("an acknowledgement is empty")? {
        Outcome::Accepted(_) => {
            let reading = open.remove(&ack.sequence).context("nobody sent this number")?;
            readings.acknowledge(reading);
            Ok(())
        }
        Outcome::Refused(refused) => {
            let code = Code::from(refused.code);
            let may_retry = refused.retry_after.is_some();
            assert!(may_retry, "a good reading was refused for ever: {refused:?}");
            bail!("{code:?}: {}", refused.detail)
        }
    }
}
