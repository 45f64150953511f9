//! How a process lives: it reads its settings, answers for its health before it reaches anything
//! else, runs one [`Service`], drains it on SIGTERM, and says by its exit code how that went.
//!
//! A binary calls [`run()`]; whoever wants several services in one process calls [`Hosted::start`].

pub mod args;
pub mod credentials;
pub mod explain;
pub mod google;
pub mod health;
mod host;
mod http;
pub mod listen;
mod logs;
pub mod memory;
mod metrics;
pub mod moment;
pub mod output;
mod probe;
mod proxies;
mod run;
mod schema;
#[cfg(test)]
mod scripted;
pub mod settings;
mod signals;
pub mod survey;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::task::JoinSet;

pub use health::{Condition, Health};
pub use host::Hosted;
pub use run::{Acting, Action, WrongSettings, install_crypto, run, run_with};
pub use settings::{Faults, Http, Settings};
pub use survey::Need;

/// A service that has its settings and is not started yet.
///
/// Starting it consumes it, so a second start does not compile:
///
/// ```compile_fail
/// # async fn example<S: service::Service>(service: S, context: service::Context) {
/// let running = service.start(&context).await;
/// let again = service.start(&context).await;
/// # }
/// ```
pub trait Service: Sized + Send + 'static {
    /// The name of the binary; dead letters and logs bear it.
    const NAME: &'static str;

    /// Starts the service and gives it back running, once its pipeline takes messages.
    ///
    /// Waits for dependencies as long as it takes, and says so through the context's health. Cancel
    /// safe: dropping this future ends what was begun.
    ///
    /// # Errors
    /// For what waiting cannot mend.
    fn start(self, context: &Context) -> impl Future<Output = anyhow::Result<Running>> + Send;

    /// Looks at all that the settings need outside of this process, and changes nothing there but test keys
    /// in caches.
    ///
    /// # Errors
    /// When no client can be built, for want of credentials for example.
    fn survey(&self) -> impl Future<Output = anyhow::Result<Vec<Need>>> + Send {
        std::future::ready(Ok(Vec::new()))
    }
}

/// What a process offers its service.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// Where the service says what it waits for.
    pub health: Health,
    /// The metrics that `/metrics` shows.
    pub registry: SharedRegistry,
}

/// A registry of metrics; clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct SharedRegistry(Arc<Mutex<Registry>>);

impl SharedRegistry {
    /// Registers metrics.
    pub fn register(&self, enter: impl FnOnce(&mut Registry)) {
        enter(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// All metrics in Prometheus' text format.
    ///
    /// # Errors
    /// When a metric cannot be encoded.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        let registry = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

/// A service at work: its pipeline, and the tasks that watch its dependencies.
///
/// Shutting it down consumes it:
///
/// ```compile_fail
/// # async fn example(running: service::Running) {
/// running.shutdown(std::time::Duration::from_secs(30)).await;
/// running.shutdown(std::time::Duration::from_secs(30)).await;
/// # }
/// ```
#[must_use = "a service that is dropped ends without a drain"]
pub struct Running {
    pipeline: pipeline::Running,
    watchers: JoinSet<()>,
}

impl Running {
    /// A running pipeline with the tasks that watch its dependencies; they end with it.
    pub fn new(pipeline: pipeline::Running, watchers: JoinSet<()>) -> Self {
        Self { pipeline, watchers }
    }

    /// Waits until the service cannot go on, and says why. Cancel safe.
    pub async fn ended(&mut self) -> anyhow::Error {
        match self.exhausted().await {
            Err(error) => error,
            Ok(()) => anyhow::anyhow!("the source has ended"),
        }
    }

    /// Waits until the source has no more messages. Cancel safe.
    ///
    /// # Errors
    /// When the service cannot go on before that.
    pub async fn exhausted(&mut self) -> anyhow::Result<()> {
        self.pipeline.ended().await.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Drains and ends the service within `grace`.
    ///
    /// # Errors
    /// When messages were left, which will be delivered again.
    pub async fn shutdown(mut self, grace: Duration) -> anyhow::Result<()> {
        let drained = self.pipeline.shutdown(grace).await;
        self.watchers.shutdown().await;
        Ok(drained?)
    }
}
