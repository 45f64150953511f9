//! Life cycle of a service process.
//!
//! The process reads its settings and starts its health server. Then it runs one [`Service`], and
//! drains it on SIGTERM. Its exit code reports the result. The health server answers before the
//! service reaches any dependency.
//!
//! A binary calls [`run()`]. To run several services in one process, call [`Hosted::start`].

pub mod args;
pub mod caller;
pub mod cloud;
pub mod cost;
pub mod create;
pub mod credentials;
pub mod google;
pub mod health;
mod host;
mod http;
pub mod impatient;
pub mod listen;
mod live;
mod loglevel;
mod logs;
pub mod memory;
mod metrics;
pub mod output;
mod proxies;
pub mod renewable;
mod routes;
mod run;
#[cfg(test)]
mod scripted;
pub mod settings;
mod signals;
pub mod tls;
pub mod tools;

use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use futures::stream::{FuturesUnordered, StreamExt as _};
use pipeline::hops::Hops;
use pipeline::metrics::Families;
use pipeline::{DeadLetters, Event, Pipeline, Reasons, Sink, Source, Transform};
use prometheus_client::registry::Registry;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::error;

pub use health::{Condition, Health, Pauses};
pub use host::Hosted;
pub use routes::{Routed, Routes};
pub use run::{Acting, Action, Tool, install_crypto, run};
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

    /// Returns the routes that the service adds to its health server. They answer before the service
    /// starts. A route that clashes with another one fails the start of the process.
    fn routes(&self, _context: &Context) -> Routes {
        Routes::new()
    }

    /// Returns the same service with additional routes.
    #[must_use]
    fn with_routes(self, routes: Routes) -> Routed<Self> {
        Routed::new(self, routes)
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
pub struct SharedRegistry {
    registry: Arc<Mutex<Registry>>,
    pipelines: Arc<OnceLock<Families>>,
    hops: Hops,
}

impl SharedRegistry {
    /// Registers metrics through `enter`.
    pub fn register(&self, enter: impl FnOnce(&mut Registry)) {
        enter(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Creates and registers the metrics of a pipeline. They have its name as the label `pipeline`,
    /// and each of these reasons from the start.
    ///
    /// A service names its only pipeline as itself. Several pipelines need different names.
    #[must_use]
    pub fn pipeline(&self, name: &'static str, reasons: &Reasons) -> pipeline::Metrics {
        let families = self.pipelines.get_or_init(|| {
            let families = Families::watched_through(self.hops.clone());
            self.register(|registry| {
                families.register(registry);
                self.hops.register(registry);
            });
            families
        });
        families.of(name, reasons)
    }

    /// Returns the viewers of the pipelines of the process.
    #[must_use]
    pub fn hops(&self) -> &Hops {
        &self.hops
    }

    /// Returns all metrics in Prometheus' text format.
    ///
    /// # Errors
    /// Fails when a metric cannot be encoded.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

/// Running service: its pipelines, and the tasks that watch its dependencies.
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
    pipelines: Vec<pipeline::Running>,
    watchers: JoinSet<()>,
    drains: Vec<Drain>,
    closes: Vec<Drain>,
}

/// End of a part beside the pipeline, within the time that it is given.
type Drain = Box<dyn FnOnce(Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

impl Running {
    /// Creates a service of the tasks that watch its dependencies. It has no pipeline yet. The tasks
    /// end together with its pipelines.
    pub fn new(watchers: JoinSet<()>) -> Self {
        Self { pipelines: Vec::new(), watchers, drains: Vec::new(), closes: Vec::new() }
    }

    /// Adds a part that is drained at the same time as the pipelines, such as a listener for users.
    /// `drain` gets the grace period, and must end within it.
    pub fn with_drain<F: Future<Output = ()> + Send + 'static>(
        mut self,
        drain: impl FnOnce(Duration) -> F + Send + 'static,
    ) -> Self {
        self.drains.push(Box::new(|grace| Box::pin(drain(grace))));
        self
    }

    /// Adds a part that is closed after the pipelines are drained, such as a client with writes under
    /// way. Parts are closed one after another, in the order of these calls. `close` gets what is
    /// left of the grace period, and must end within it.
    pub fn with_close<F: Future<Output = ()> + Send + 'static>(
        mut self,
        close: impl FnOnce(Duration) -> F + Send + 'static,
    ) -> Self {
        self.closes.push(Box::new(|left| Box::pin(close(left))));
        self
    }

    /// Starts a pipeline, and reports its state to `health`.
    ///
    /// A service may start several pipelines, with different names in their metrics. They run side by
    /// side until one of them ends, which ends the service.
    pub fn start<E: Event, So, T, S, D>(
        mut self,
        pipeline: Pipeline<So, T, S, D>,
        health: &Health,
    ) -> Self
    where
        So: Source<E>,
        T: Transform<E>,
        S: Sink<Record = T::Record>,
        D: DeadLetters<E>,
    {
        let metrics = pipeline.metrics.clone();
        let running = pipeline.start();
        health.watch(running.status(), metrics);
        self.pipelines.push(running);
        self
    }

    /// Reports to `health` that the service has started, although it has no pipeline. It works until
    /// it is shut down, such as a service that only answers requests.
    pub fn serve(self, health: &Health) -> Self {
        health.serve();
        self
    }

    /// Waits until the service cannot continue, and returns the reason. With several pipelines, the
    /// first that ends is the reason. Cancel safe.
    pub async fn ended(&mut self) -> anyhow::Error {
        match self.ends().next().await {
            Some(Err(error)) => error,
            Some(Ok(())) => anyhow::anyhow!("the source has ended"),
            // Without a pipeline, nothing ends by itself.
            None => std::future::pending().await,
        }
    }

    /// Waits until no source has more messages. Cancel safe.
    ///
    /// # Errors
    /// Fails when a pipeline cannot continue before that.
    pub async fn exhausted(&mut self) -> anyhow::Result<()> {
        let mut ends = self.ends();
        while let Some(ended) = ends.next().await {
            ended?;
        }
        Ok(())
    }

    /// Drains all pipelines at the same time within `grace`, closes the other parts, then ends the
    /// service.
    ///
    /// # Errors
    /// Fails when messages were left unsettled. They will be delivered again. With several failures,
    /// returns the first and logs the others.
    pub async fn shutdown(mut self, grace: Duration) -> anyhow::Result<()> {
        let began = Instant::now();
        let mut parts = JoinSet::new();
        for drain in self.drains {
            parts.spawn(drain(grace));
        }
        let count = self.pipelines.len();
        let drains = self.pipelines.into_iter().map(|pipeline| async move {
            let name = pipeline.status().pipeline();
            let drained = pipeline.shutdown(grace).await;
            drained.map_err(|left| named(left.into(), name, count))
        });
        let drained = join_all(drains).await;
        join_parts(&mut parts).await;
        for close in self.closes {
            parts.spawn(close(grace.saturating_sub(began.elapsed())));
            join_parts(&mut parts).await;
        }
        self.watchers.shutdown().await;
        let mut failures = drained.into_iter().filter_map(Result::err);
        let first = failures.next();
        for failure in failures {
            error!(error = format!("{failure:#}"), "the drain was not clean");
        }
        first.map_or(Ok(()), Err)
    }

    /// Returns the ends of the pipelines, as they come. Dropping it loses none of them.
    fn ends(&mut self) -> FuturesUnordered<impl Future<Output = anyhow::Result<()>>> {
        let count = self.pipelines.len();
        let ends = self.pipelines.iter_mut().map(|pipeline| async move {
            let name = pipeline.status().pipeline();
            let error = pipeline.ended().await;
            error.map_or(Ok(()), |error| Err(named(error.into(), name, count)))
        });
        ends.collect()
    }
}

/// Waits for the ends of parts beside the pipelines.
async fn join_parts(parts: &mut JoinSet<()>) {
    while let Some(ended) = parts.join_next().await {
        if let Err(panic) = ended {
            error!(error = %panic, "a part of the service was not drained");
        }
    }
}

/// Adds the name of the pipeline to an error if the service has several.
fn named(error: anyhow::Error, pipeline: &str, pipelines: usize) -> anyhow::Error {
    if pipelines == 1 { error } else { error.context(format!("pipeline {pipeline}")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::{Scripted, ScriptedSettings, Trouble};

    #[tokio::test]
    async fn a_part_beside_the_pipeline_is_drained_with_it() {
        let scripted = Scripted {
            trouble: Trouble::None,
            settings: ScriptedSettings::default(),
            second: None,
        };
        let running = scripted.start(&Context::default()).await.unwrap();
        let (told, drained) = tokio::sync::oneshot::channel();
        let running = running.with_drain(async |grace| told.send(grace).unwrap());
        let grace = Duration::from_secs(60);

        running.shutdown(grace).await.unwrap();

        assert_eq!(drained.await, Ok(grace));
    }

    #[tokio::test(start_paused = true)]
    async fn parts_are_closed_in_order_after_the_drain_with_what_is_left_of_the_time() {
        let ended = Arc::new(Mutex::new(Vec::new()));
        let part = |name: &'static str, takes: u64| {
            let ended = Arc::clone(&ended);
            async move |left: Duration| {
                tokio::time::sleep(Duration::from_secs(takes)).await;
                ended.lock().unwrap().push((name, left.as_secs()));
            }
        };
        let running = Running::new(JoinSet::new())
            .with_close(part("first", 2))
            .with_close(part("second", 1))
            .with_drain(part("drain", 5));

        running.shutdown(Duration::from_secs(60)).await.unwrap();

        let expected = [("drain", 60), ("first", 55), ("second", 53)];
        assert_eq!(*ended.lock().unwrap(), expected);
    }
}
