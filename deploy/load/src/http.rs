//! Devices over HTTP: requests to ingest, each answered before its messages are confirmed.

mod answer;
mod request;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use reqwest::{Client, Url};
use tokio::time::{Instant, sleep_until};

use crate::args;
use crate::content::Message;
use crate::device::Device;
use crate::gate::{Gate, Phase};
use crate::plan::Due;
use crate::tally::{Tally, Times};

/// Longest wait for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Everything that the requests of a run share. It cannot be shown, because it has a key.
pub(crate) struct HttpLink {
    client: Client,
    url: Url,
    /// Credentials of a request.
    credentials: Credentials,
    /// Id of the run, with which the ids of messages begin.
    run: String,
    batch: usize,
    /// Most requests of a device at once.
    max_requests: usize,
}

/// Credentials of a request.
#[derive(Clone)]
enum Credentials {
    None,
    ApiKey(String),
    TokenFile(PathBuf),
}

/// Message with its times.
#[derive(Debug)]
struct Item {
    message: Message,
    times: Times,
}

impl HttpLink {
    /// Makes the client that all devices share. It keeps connections alive.
    ///
    /// # Errors
    /// Fails for a file that cannot be read.
    pub(crate) fn new(
        url: Url,
        options: &args::Http,
        run: &str,
        max_in_flight: u16,
    ) -> anyhow::Result<Self> {
        let read = |file: &PathBuf, option: &str| {
            let text = std::fs::read_to_string(file);
            text.with_context(|| format!("{option}: read {}", file.display()))
        };
        let credentials = match (&options.api_key_file, &options.token_file) {
            (Some(file), _) => Credentials::ApiKey(read(file, "--api-key-file")?.trim().to_owned()),
            (None, Some(file)) => {
                read(file, "--token-file")?;
                Credentials::TokenFile(file.clone())
            }
            (None, None) => Credentials::None,
        };
        let mut client = Client::builder().timeout(ANSWER_LIMIT);
        let is_local = ["localhost", "127.0.0.1", "[::1]"];
        if url.host_str().is_some_and(|host| is_local.contains(&host)) {
            // A proxy must not be asked for an address of this machine.
            client = client.no_proxy();
        }
        let batch = usize::from(options.batch);
        Ok(Self {
            client: client.build().context("build the HTTP client")?,
            url,
            credentials,
            run: run.to_owned(),
            batch,
            max_requests: (usize::from(max_in_flight) / batch).max(1),
        })
    }
}

/// Sends all messages of a device, and returns when each is confirmed or refused.
pub(crate) async fn run(
    link: Arc<HttpLink>,
    tally: Arc<Tally>,
    mut gate: Gate,
    mut device: Device,
) {
    let mut requests = FuturesUnordered::new();
    loop {
        let mut due_at = None;
        let start = match gate.phase() {
            Phase::Connecting => None,
            Phase::Sending(start) => Some(start),
            Phase::Draining => {
                device.stop();
                None
            }
        };
        while let Some(start) = start
            && requests.len() < link.max_requests
        {
            let now = Instant::now();
            let planned = match device.due() {
                Due::Never => break,
                Due::Now => now,
                Due::At(after) => start + after,
            };
            if planned > now {
                due_at = Some(planned);
                break;
            }
            let items = batch(&mut device, Times { planned, sent: now }, link.batch);
            items.iter().for_each(|item| tally.sent(item.times.sent));
            requests.push(request::send(&link, &tally, items));
        }
        if requests.is_empty() && device.due() == Due::Never {
            return;
        }
        tokio::select! {
            Some(()) = requests.next() => {}
            () = sleep_until(due_at.unwrap_or_else(Instant::now)), if due_at.is_some() => {}
            () = gate.changed() => {}
        }
    }
}

/// Takes the messages of one request. All of them are due at the same time.
fn batch(device: &mut Device, times: Times, most: usize) -> Vec<Item> {
    let due = device.due();
    let mut items = Vec::new();
    while items.len() < most && device.due() == due {
        items.push(Item { message: device.take(), times });
    }
    items
}
