//! A service with its health server, in this process.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{error, info};

use crate::settings::Settings;
use crate::{Context, Health, Service, http, metrics};

/// A service with its health server. Dropping it ends both without a drain.
#[must_use = "a service that is dropped ends without a drain"]
pub struct Hosted {
    life: JoinSet<anyhow::Result<()>>,
    server: JoinSet<anyhow::Result<()>>,
    stop: watch::Sender<Option<Duration>>,
    address: SocketAddr,
    context: Context,
}

impl Hosted {
    /// Takes the health port, answers there, and starts the service.
    ///
    /// # Errors
    /// When the port is taken. What the service itself meets is told by its health, and by
    /// [`Hosted::ended`].
    pub async fn start<S: Service>(service: S, settings: &impl Settings) -> anyhow::Result<Self> {
        let context = Context::default();
        context.registry.register(|registry| metrics::register(registry, S::NAME, &context.health));
        let (listener, address) = http::bind(settings.http()).await?;
        info!(service = S::NAME, %address, "health server answers");
        context.health.tell("service", S::NAME);
        context.health.tell("version", env!("CARGO_PKG_VERSION"));
        context.health.tell("settings", serde_json::to_value(settings)?);
        let mut server = JoinSet::new();
        server.spawn(http::serve(listener, context.clone()));
        let (stop, stopped) = watch::channel(None);
        let mut life = JoinSet::new();
        life.spawn(live(service, context.clone(), settings.grace_period(), stopped));
        Ok(Self { life, server, stop, address, context })
    }

    /// Where the health server answers.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the service says about itself.
    #[must_use]
    pub fn health(&self) -> &Health {
        &self.context.health
    }

    /// All metrics in Prometheus' text format.
    ///
    /// # Errors
    /// When a metric cannot be encoded.
    pub fn metrics(&self) -> Result<String, std::fmt::Error> {
        self.context.registry.encode()
    }

    /// Waits until the service has ended by itself, drained as far as it could, and says why.
    /// Cancel safe.
    pub async fn ended(&mut self) -> anyhow::Error {
        let ended = tokio::select! {
            Some(ended) = self.life.join_next() => ended,
            Some(ended) = self.server.join_next() => ended,
        };
        match ended {
            Ok(Ok(())) => anyhow::anyhow!("the service has ended"),
            Ok(Err(error)) => error,
            Err(panic) => panic.into(),
        }
    }

    /// Drains and ends the service within `grace`.
    ///
    /// # Errors
    /// When the service failed, or messages were left, which will be delivered again.
    pub async fn shutdown(mut self, grace: Duration) -> anyhow::Result<()> {
        self.stop.send_replace(Some(grace));
        let ended = self.life.join_next().await;
        self.server.shutdown().await;
        match ended {
            None => Ok(()),
            Some(ended) => ended?,
        }
    }
}

async fn live<S: Service>(
    service: S,
    context: Context,
    grace: Duration,
    mut stop: watch::Receiver<Option<Duration>>,
) -> anyhow::Result<()> {
    let started = tokio::select! {
        started = service.start(&context) => started,
        // The sender lives as long as this task's owner.
        _ = stop.wait_for(Option::is_some) => return Ok(()),
    };
    let mut running = started.inspect_err(|error| context.health.fail(format!("{error:#}")))?;
    let failure = tokio::select! {
        failure = running.ended() => Some(failure),
        _ = stop.wait_for(Option::is_some) => None,
    };
    let grace = stop.borrow().unwrap_or(grace);
    let Some(failure) = failure else {
        info!(?grace, "draining");
        return running.shutdown(grace).await;
    };
    error!(error = format!("{failure:#}"), "the service cannot go on, draining");
    context.health.fail(format!("{failure:#}"));
    if let Err(left) = running.shutdown(grace).await {
        error!(error = format!("{left:#}"), "the drain was not clean");
    }
    Err(failure)
}
