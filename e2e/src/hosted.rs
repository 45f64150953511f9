//! Runs services in this process.

use std::time::Duration;

use anyhow::{Context as _, bail};
use bigqueries::Bigqueries;
use enrich::Enrich;
use icestore::Icestore;
use ingestion::Ingestion;
use service::{Hosted, Service};
use tokio::time::{sleep, timeout};

use crate::metrics::Metrics;
use crate::settings::ServiceSettings;
use crate::timings;

/// Service in this process.
pub struct HostedService {
    /// Name of the service.
    pub name: &'static str,
    /// The service itself.
    pub hosted: Hosted,
}

impl HostedService {
    /// Starts a service.
    ///
    /// # Errors
    /// Fails when the settings are wrong, or a port is taken.
    pub async fn start<S: Service>(service: S) -> anyhow::Result<Self> {
        timings::phase(timings::SERVICES);
        Ok(Self { name: S::NAME, hosted: Hosted::start(service).await? })
    }

    /// Starts all services in the order of the flow.
    ///
    /// # Errors
    /// Fails when settings are wrong, or a port is taken.
    pub async fn start_all(settings: &ServiceSettings) -> anyhow::Result<Vec<Self>> {
        let ServiceSettings { ingestion, enrich, bigqueries, icestore } = settings;
        Ok(vec![
            Self::start(Ingestion::new(ingestion.clone())).await?,
            Self::start(Enrich::new(enrich.clone())).await?,
            Self::start(Bigqueries::new(bigqueries.clone())).await?,
            Self::start(Icestore::new(icestore.clone())).await?,
        ])
    }

    /// Waits until the service is ready.
    ///
    /// # Errors
    /// Fails at once when the service fails, with its error. Also fails when it takes longer than
    /// `patience`, and names the condition that is missing.
    pub async fn ready(&self, patience: Duration) -> anyhow::Result<()> {
        let health = self.hosted.health();
        let is_ready = async {
            while !health.is_ready() {
                if let Some(failure) = health.dead() {
                    bail!("{} failed: {failure}", self.name);
                }
                sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        };
        if let Ok(ended) = timeout(patience, is_ready).await {
            return ended;
        }
        match health.conditions().into_iter().find(|(_, state)| !state.ready) {
            Some((name, state)) => bail!("{} waits for {name}: {}", self.name, state.reason),
            None => bail!("{} did not become ready", self.name),
        }
    }

    /// Reads the current metrics of the service.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        Metrics::parse(&self.hosted.metrics().unwrap_or_default())
    }

    /// Ends the service with this grace period.
    ///
    /// # Errors
    /// Fails when a part of the service fails.
    pub async fn shutdown(self, grace: Duration) -> anyhow::Result<()> {
        self.hosted.shutdown(grace).await.with_context(|| format!("drain {}", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_service_that_fails_is_not_waited_for() {
        let mut settings = ingestion::config::Settings::default();
        settings.process.http =
            service::Http { host: "127.0.0.1".into(), port: 0, ..service::Http::default() };
        let service = HostedService::start(Ingestion::new(settings)).await.unwrap();

        let ready = service.ready(Duration::from_secs(3600));
        let failure = timeout(Duration::from_secs(60), ready).await.unwrap().unwrap_err();

        let text = format!("{failure:#}");
        assert!(text.starts_with("ingestion failed: mqtt.url: "), "{text}");
    }
}
