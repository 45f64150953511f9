//! Replicas of the services: addresses, and requests to them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use reqwest::Client;
use tokio::time::{Instant, timeout};

use crate::settings::{Settings, Stage, address_of, read_key};

/// Time for which the addresses of a host name are used again.
const KEPT: Duration = Duration::from_secs(5);
/// Longest search for the addresses of a host name.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest time until a connection is there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Replicas of all services. Clones share what they know.
#[derive(Clone)]
pub(crate) struct Replicas(Arc<Inner>);

struct Inner {
    settings: Arc<Settings>,
    client: Client,
    known: Mutex<BTreeMap<usize, Known>>,
}

struct Known {
    addresses: Vec<SocketAddr>,
    at: Instant,
}

impl Replicas {
    pub(crate) fn new(settings: &Arc<Settings>) -> anyhow::Result<Self> {
        // Each process answers for itself, so a proxy or a redirect would lead to the wrong one.
        let client = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .context("build HTTP client")?;
        let settings = Arc::clone(settings);
        Ok(Self(Arc::new(Inner { settings, client, known: Mutex::default() })))
    }

    pub(crate) fn stages(&self) -> &[Stage] {
        &self.0.settings.services
    }

    /// Returns the addresses of a stage's replicas, in order. The error is for people.
    pub(crate) async fn of(&self, stage: usize) -> Result<Vec<SocketAddr>, String> {
        let lock = || self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = lock()
            .get(&stage)
            .filter(|known| known.at.elapsed() < KEPT)
            .map(|known| known.addresses.clone());
        if let Some(addresses) = fresh {
            return Ok(addresses);
        }
        let url = &self.0.settings.services[stage].url;
        let host = address_of(url).ok_or_else(|| format!("{url} is no URL of a health port"))?;
        let found = timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host(host.to_owned())).await;
        let found = found.map_err(|_late| format!("{host}: the name was not resolved in time"))?;
        let mut addresses: Vec<_> =
            found.map_err(|error| format!("{host}: {error}"))?.collect();
        // A name such as localhost has addresses of two families for one process.
        if addresses.iter().any(SocketAddr::is_ipv4) {
            addresses.retain(SocketAddr::is_ipv4);
        }
        addresses.sort();
        addresses.dedup();
        lock().insert(stage, Known { addresses: addresses.clone(), at: Instant::now() });
        Ok(addresses)
    }

    /// Returns a request to a replica, with the key for what it shows of messages.
    pub(crate) fn get(&self, replica: SocketAddr, path: &str) -> reqwest::RequestBuilder {
        let request = self.0.client.get(format!("http://{replica}{path}"));
        // It is read each time, so a new key needs no restart. A wrong file shows by the answer 403.
        let key = self.0.settings.key_file.as_deref().filter(|_| path.starts_with("/live/"));
        match key.map(read_key) {
            Some(Ok(key)) => request.header("x-api-key", key),
            Some(Err(_)) | None => request,
        }
    }

    /// Returns a client for other requests.
    pub(crate) fn client(&self) -> &Client {
        &self.0.client
    }
}
