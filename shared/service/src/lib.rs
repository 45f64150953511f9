//! Life cycle of a service process.
//!
//! The process reads its settings and starts its health server. Then it runs one [`Service`], and
//! drains it on SIGTERM. Its exit code reports the result. The health server answers before the
//! service reaches any dependency.
//!
//! A binary calls [`run()`]. To run several services in one process, call [`Hosted::start`].

pub mod args;
pub mod cloud;
pub mod credentials;
pub mod google;
pub mod health;
mod host;
mod http;
pub mod listen;
mod logs;
pub mod memory;
mod metrics;
pub mod output;
mod proxies;
pub mod renewable;
mod run;
#[cfg(test)]
mod scripted;
pub mod settings;
mod signals;
pub mod tools;

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::task::JoinSet;
use tracing::error;

pub use health::{Condition, Health, Pauses};
pub use host::Hosted;
pub use run::{Acting, Action, install_crypto, run};
pub use settings::{Faults, Http, Settings, WrongSettings};
pub use tools::preflight::Dependency;

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
    /// Name of the binary. It appears in dead letters and logs.
    const NAME: &'static str;

    /// Settings that the service is made of.
    type Settings: Settings;

    /// Returns the settings of this service. Its host takes the address of the health server and the
    /// grace period from them.
    fn settings(&self) -> &Self::Settings;

    /// Starts the service. Returns once its pipeline takes messages.
    ///
    /// Waits for dependencies without a time limit, and reports each wait through the context's
    /// health. Cancel safe: dropping this future stops everything that was started.
    ///
    /// # Errors
    /// Fails for problems that waiting cannot solve.
    fn start(self, context: &Context) -> impl Future<Output = anyhow::Result<Running>> + Send;

    /// Checks everything outside this process that the settings need. It changes nothing there,
    /// except test keys in caches.
    ///
    /// # Errors
    /// Fails when a client cannot be built, for example because credentials are missing.
    fn preflight(&self) -> impl Future<Output = anyhow::Result<Vec<Dependency>>> + Send {
        std::future::ready(Ok(Vec::new()))
    }
}

/// Interfaces that a process offers to its service.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// Health of the process. The service reports here which dependency it waits for.
    pub health: Health,
    /// Metrics that `/metrics` shows.
    pub registry: SharedRegistry,
}

/// Registry of metrics. Clones share the same registry.
#[derive(Debug, Clone, Default)]
pub struct SharedRegistry(Arc<Mutex<Registry>>);

impl SharedRegistry {
    /// Registers metrics through `enter`.
    pub fn register(&self, enter: impl FnOnce(&mut Registry)) {
        enter(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Returns all metrics in Prometheus' text format.
    ///
    /// # Errors
    /// Fails when a metric cannot be encoded.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        let registry = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

/// Running service: its pipeline, and the tasks that watch its dependencies.
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
    drains: Vec<Drain>,
}

/// End of a part that is drained beside the pipeline, within the grace period that it is given.
type Drain = Box<dyn FnOnce(Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

impl Running {
    /// Combines a running pipeline with the tasks that watch its dependencies. The tasks end
    /// together with the pipeline.
    pub fn new(pipeline: pipeline::Running, watchers: JoinSet<()>) -> Self {
        Self { pipeline, watchers, drains: Vec::new() }
    }

    /// Adds a part that is drained at the same time as the pipeline, such as a listener for users.
    /// `drain` gets the grace period, and must end within it.
    pub fn with_drain<F: Future<Output = ()> + Send + 'static>(
        mut self,
        drain: impl FnOnce(Duration) -> F + Send + 'static,
    ) -> Self {
        self.drains.push(Box::new(|grace| Box::pin(drain(grace))));
        self
    }

    /// Waits until the service cannot continue, and returns the reason. Cancel safe.
    pub async fn ended(&mut self) -> anyhow::Error {
        match self.exhausted().await {
            Err(error) => error,
            Ok(()) => anyhow::anyhow!("the source has ended"),
        }
    }

    /// Waits until the source has no more messages. Cancel safe.
    ///
    /// # Errors
    /// Fails when the service cannot continue before that.
    pub async fn exhausted(&mut self) -> anyhow::Result<()> {
        self.pipeline.ended().await.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Drains the service within `grace`, then ends it.
    ///
    /// # Errors
    /// Fails when messages were left unsettled. They will be delivered again.
    pub async fn shutdown(mut self, grace: Duration) -> anyhow::Result<()> {
        let mut drains = JoinSet::new();
        for drain in self.drains {
            drains.spawn(drain(grace));
        }
        let drained = self.pipeline.shutdown(grace).await;
        while let Some(ended) = drains.join_next().await {
            if let Err(panic) = ended {
                error!(error = %panic, "a part of the service was not drained");
            }
        }
        self.watchers.shutdown().await;
        Ok(drained?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::{Example, Scripted, Trouble};

    #[tokio::test]
    async fn a_part_beside_the_pipeline_is_drained_with_it() {
        let scripted = Scripted { trouble: Trouble::None, settings: Example::default() };
        let running = scripted.start(&Context::default()).await.unwrap();
        let (told, drained) = tokio::sync::oneshot::channel();
        let running = running.with_drain(async |grace| told.send(grace).unwrap());
        let grace = Duration::from_secs(60);

        running.shutdown(grace).await.unwrap();

        assert_eq!(drained.await, Ok(grace));
    }
}
