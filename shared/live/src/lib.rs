//! Live page: the state of all services, messages on their way, and dead letters.
//!
//! [`Live::start`] polls the health ports of the services. Each service may have several replicas: all
//! addresses of its host name. [`Live::routes`] answers the page:
//!
//! - `state`: numbers of each stage, once a second, made once for all viewers.
//! - `watching`: steps of messages, from all replicas. They exist only while somebody watches.
//! - `sending`: a message of the page, on its way through ingestion.
//! - `replaying`: a dead letter, on its way again.
//!
//! [`Live::page`] has the files of the page, which need no credentials.

mod events;
mod page;
mod poll;
mod replaying;
mod replays;
mod replicas;
mod rights;
mod routes;
mod samples;
mod sending;
pub mod settings;
mod stage;
mod state;
mod viewer;
mod watching;
mod window;

use std::sync::Arc;

use axum::Router;
use pubsub::Clients;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use web::Reach;

use poll::{Latest, Poller};
use replays::Replays;
use replicas::Replicas;
pub use settings::Settings;
use watching::Taps;

/// Running page server. Dropping it ends its streams.
#[must_use = "a page server that is dropped ends its streams"]
pub struct Live {
    parts: Parts,
    tasks: JoinSet<()>,
    /// Dropped with this value, which ends the streams.
    open: watch::Sender<()>,
}

/// State that all requests share.
#[derive(Clone)]
struct Parts {
    settings: Arc<Settings>,
    reach: Reach,
    replicas: Replicas,
    latest: watch::Receiver<Arc<Latest>>,
    taps: Taps,
    replays: Replays,
    /// Clients that send dead letters again.
    clients: Clients,
    /// Streams of the state that may be opened.
    viewers: Arc<Semaphore>,
    /// Streams of messages that may be opened.
    watchers: Arc<Semaphore>,
    closing: watch::Receiver<()>,
}

impl Live {
    /// Starts to poll the services. `reach` is that of the listener which answers the page: dead
    /// letters are replayed for callers who are authenticated, or on this machine.
    ///
    /// # Errors
    /// A key cannot be read, or no HTTP client can be built.
    pub fn start(settings: &Settings, reach: Reach) -> anyhow::Result<Self> {
        let settings = Arc::new(settings.clone());
        let replicas = Replicas::new(&settings)?;
        let viewers = Arc::new(Semaphore::new(settings.max_viewers));
        let taps = Taps::default();
        let (news, latest) = watch::channel(Arc::default());
        let (open, closing) = watch::channel(());
        let poller = Poller::new(&settings, replicas.clone(), taps.clone(), Arc::clone(&viewers));
        let mut tasks = JoinSet::new();
        tasks.spawn(poller.run(news));
        let watchers = Arc::new(Semaphore::new(settings.max_viewers));
        let replays = Replays::new();
        let clients = Clients::default();
        let parts = Parts {
            settings,
            reach,
            replicas,
            latest,
            taps,
            replays,
            clients,
            viewers,
            watchers,
            closing,
        };
        Ok(Self { parts, tasks, open })
    }

    /// Sends dead letters again with these clients and credentials.
    pub fn with_clients(mut self, clients: Clients) -> Self {
        self.parts.clients = clients;
        self
    }

    /// Returns the routes of the data. They need an identity of the caller.
    pub fn routes(&self) -> Router {
        routes::routes(self.parts.clone())
    }

    /// Returns the files of the page. They hold no data, so they need no credentials.
    pub fn page(&self) -> Router {
        page::routes()
    }

    /// Ends all streams, so that the listener can be drained. Waits for running replays.
    pub async fn shutdown(mut self) {
        drop(self.open);
        self.tasks.shutdown().await;
        self.parts.replays.finish().await;
    }
}
