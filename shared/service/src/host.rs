//! Runs a service with its health server in this process.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{error, info};

use crate::memory::Account;
use crate::settings::{self, Settings as _, url};
use crate::{Context, Health, Service, http, metrics};

/// Service with its health server. Dropping it ends both without a drain.
#[must_use = "a service that is dropped ends without a drain"]
pub struct Hosted {
    life: JoinSet<anyhow::Result<()>>,
    server: JoinSet<anyhow::Result<()>>,
    stop: watch::Sender<Option<Duration>>,
    failed: watch::Receiver<bool>,
    address: SocketAddr,
    context: Context,
}

impl Hosted {
    /// Binds the health port, starts the health server, and then starts the service.
    ///
    /// # Errors
    /// Fails when the port is taken, or a route of the service clashes with another one. Failures of
    /// the service itself are reported by its health and by [`Hosted::ended`].
    pub fn start<S: Service>(service: S) -> impl Future<Output = anyhow::Result<Self>> + Send {
        // Boxed, because a service has several KiB, which its caller's future would hold.
        Box::pin(Self::begin(service))
    }

    async fn begin<S: Service>(service: S) -> anyhow::Result<Self> {
        let settings = service.settings();
        let context = Context::default();
        context.registry.register(|registry| metrics::register(registry, S::NAME, &context.health));
        let routes = http::check(service.routes(&context))?;
        let (listener, address) = http::bind(&settings.process().http).await?;
        info!(service = S::NAME, %address, "health server answers");
        context.health.tell("service", S::NAME);
        context.health.tell("version", env!("CARGO_PKG_VERSION"));
        let mut shown = settings::to_value(settings)?;
        url::mask_secrets(&mut shown);
        context.health.tell("settings", shown);
        let memory = Account::of(settings.memory(), settings.memory_bytes());
        context.health.tell("memory", memory.report());
        let mut server = JoinSet::new();
        let key_file = settings.process().http.live_key_file.clone();
        server.spawn(http::serve(listener, context.clone(), key_file, routes));
        let (stop, stopped) = watch::channel(None);
        let (failing, failed) = watch::channel(false);
        let mut life = JoinSet::new();
        let end = End { grace: settings.process().grace_period, stopped, failing };
        life.spawn(live(service, context.clone(), end));
        Ok(Self { life, server, stop, failed, address, context })
    }

    /// Returns the address of the health server.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the health that the service reports.
    #[must_use]
    pub fn health(&self) -> &Health {
        &self.context.health
    }

    /// Returns true while somebody watches messages.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.context.registry.hops().is_watched()
    }

    /// Returns all metrics in Prometheus' text format.
    ///
    /// # Errors
    /// Fails when a metric cannot be encoded.
    pub fn metrics(&self) -> Result<String, std::fmt::Error> {
        self.context.registry.encode()
    }

    /// Waits until the service cannot continue and starts to drain by itself. Stays pending forever
    /// if that never happens.
    pub(crate) fn failing(&self) -> impl Future<Output = ()> + 'static {
        let mut failed = self.failed.clone();
        async move {
            if failed.wait_for(|failed| *failed).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until the service has ended by itself, drained as far as possible. Returns the reason.
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

    /// Drains the service within `grace`, then ends it.
    ///
    /// # Errors
    /// Fails when the service failed, or when messages were left unsettled. They will be delivered
    /// again.
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

/// Conditions under which a service ends.
struct End {
    /// Maximum duration of a drain that no caller asked for.
    grace: Duration,
    /// Set when a caller asks for the end.
    stopped: watch::Receiver<Option<Duration>>,
    /// Set when the service cannot continue.
    failing: watch::Sender<bool>,
}

async fn live<S: Service>(service: S, context: Context, end: End) -> anyhow::Result<()> {
    let End { grace, stopped: mut stop, failing } = end;
    let started = tokio::select! {
        started = service.start(&context) => started,
        // The sender lives as long as the owner of this task.
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
    failing.send_replace(true);
    error!(error = format!("{failure:#}"), "the service cannot go on, draining");
    context.health.fail(format!("{failure:#}"));
    if let Err(left) = running.shutdown(grace).await {
        error!(error = format!("{left:#}"), "the drain was not clean");
    }
    Err(failure)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;
    use crate::scripted::{SECOND, Scripted, ScriptedSettings, Trouble};
    use crate::settings::ProcessSettings;

    /// Maximum wait for an expected event.
    const PATIENCE: Duration = Duration::from_secs(60);

    async fn get(hosted: &Hosted, path: &str) -> String {
        let address = ("127.0.0.1", hosted.address().port());
        let mut stream = TcpStream::connect(address).await.unwrap();
        let question = format!("GET {path} HTTP/1.0\r\n\r\n");
        stream.write_all(question.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn start(trouble: Trouble) -> Hosted {
        start_both(trouble, None).await
    }

    /// Starts a service with one or two pipelines.
    async fn start_both(trouble: Trouble, second: Option<Trouble>) -> Hosted {
        let http = crate::Http { host: "127.0.0.1".into(), port: 0, ..crate::Http::default() };
        let grace_period = Duration::from_secs(3600);
        let process = ProcessSettings { http, grace_period, ..ProcessSettings::default() };
        let settings = ScriptedSettings { process };
        Hosted::start(Scripted { trouble, second, settings }).await.unwrap()
    }

    /// Returns the status once it has this text.
    async fn status_with(hosted: &Hosted, text: &str) -> serde_json::Value {
        let found = async {
            loop {
                let answer = get(hosted, "/status").await;
                let (_, body) = answer.split_once("\r\n\r\n").unwrap();
                if body.contains(text) {
                    return serde_json::from_str(body).unwrap();
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, found).await.unwrap()
    }

    /// Returns the answer of `/healthz` once it is no longer 200.
    async fn failed_health(hosted: &Hosted) -> String {
        let failed = async {
            loop {
                let answer = get(hosted, "/healthz").await;
                if !answer.starts_with("HTTP/1.0 200") {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, failed).await.unwrap()
    }

    #[tokio::test]
    async fn a_service_in_order_is_healthy() {
        let hosted = start(Trouble::None).await;

        assert!(get(&hosted, "/healthz").await.ends_with("OK"));
        assert!(get(&hosted, "/").await.contains("/status"));
        hosted.shutdown(PATIENCE).await.unwrap();
    }

    #[tokio::test]
    async fn the_status_tells_how_far_behind_the_service_is() {
        let hosted = start(Trouble::SourceFailsWhileAWriteHangs).await;
        failed_health(&hosted).await;

        let answer = get(&hosted, "/status").await;

        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let status: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(status["lag"]["in_flight_messages"], 1, "{status}");
        let oldest = status["lag"]["oldest_unsettled_seconds"].as_u64().unwrap();
        // This service's message is one hour old.
        assert!((3600..7200).contains(&oldest), "{status}");
        assert!(status["memory"]["needed_bytes"].as_u64().unwrap() > 0, "{status}");
    }

    #[tokio::test]
    async fn a_service_that_is_not_behind_tells_so() {
        let hosted = start(Trouble::None).await;
        let is_settled = async || {
            let answer = get(&hosted, "/status").await;
            answer.contains("\"sent\":1") && answer.contains("\"oldest_unsettled_seconds\":0")
        };

        let settled = async {
            while !is_settled().await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, settled).await.unwrap();
    }

    #[tokio::test]
    async fn the_status_tells_why_the_last_write_failed() {
        let hosted = start(Trouble::FirstWriteFails).await;
        let written = async {
            loop {
                let answer = get(&hosted, "/status").await;
                if answer.contains("\"sent\":1") {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };

        let answer = tokio::time::timeout(PATIENCE, written).await.unwrap();

        assert!(answer.contains("\"last_error\":\"destination: write: not today\""), "{answer}");
        assert!(answer.contains("\"last_error_at\":\"20"), "{answer}");
    }

    #[tokio::test]
    async fn a_service_that_cannot_go_on_is_not_healthy_while_it_drains() {
        let hosted = start(Trouble::SourceFailsWhileAWriteHangs).await;

        let answer = failed_health(&hosted).await;

        assert!(answer.starts_with("HTTP/1.0 503"), "{answer}");
        assert!(answer.ends_with("receive: the source is gone"), "{answer}");
    }

    #[test]
    fn a_lane_that_hangs_is_not_healthy() {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.enable_all().worker_threads(3).build().unwrap();

        let answer = runtime.block_on(async {
            let hosted = start(Trouble::LaneHangs).await;
            failed_health(&hosted).await
        });

        // The thread of the lane never ends.
        runtime.shutdown_background();
        assert!(answer.starts_with("HTTP/1.0 503"), "{answer}");
        assert!(answer.contains("has shown no sign of life"), "{answer}");
    }

    #[tokio::test]
    async fn two_pipelines_stand_side_by_side_in_metrics_and_status() {
        let hosted = start_both(Trouble::None, Some(Trouble::FirstWriteFails)).await;

        let status = status_with(&hosted, "\"sent\":2").await;
        let metrics = hosted.metrics().unwrap();

        for name in ["scripted", SECOND] {
            let line = format!("dataflow_pipeline_sent_messages_total{{pipeline=\"{name}\"}} 1\n");
            assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
            assert_eq!(status["pipelines"][name]["counts"]["sent"], 1, "{status}");
            assert!(status["pipelines"][name]["lag"].is_object(), "{status}");
        }
        let described = metrics.matches("# TYPE dataflow_pipeline_sent_messages counter").count();
        assert_eq!(described, 1, "{metrics}");
        let failure = status["last_error"].as_str().unwrap();
        assert_eq!(failure, "destination: second: write: not today", "{status}");
        hosted.shutdown(PATIENCE).await.unwrap();
    }

    #[tokio::test]
    async fn a_pipeline_that_fails_ends_the_service_and_drains_the_other_one() {
        let mut hosted = start_both(Trouble::FirstWriteFails, Some(Trouble::SourceFails)).await;

        let failure = tokio::time::timeout(PATIENCE, hosted.ended()).await.unwrap();

        assert_eq!(format!("{failure:#}"), "pipeline second: receive: the source is gone");
        assert_eq!(hosted.health().dead(), Some(format!("{failure:#}")));
        let metrics = hosted.metrics().unwrap();
        let sent = "dataflow_pipeline_sent_messages_total{pipeline=\"scripted\"} 1\n";
        assert!(metrics.contains(sent), "{metrics}");
    }

    #[test]
    fn health_names_the_pipeline_that_hangs() {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.enable_all().worker_threads(3).build().unwrap();

        let answer = runtime.block_on(async {
            let hosted = start_both(Trouble::None, Some(Trouble::LaneHangs)).await;
            failed_health(&hosted).await
        });

        // The thread of the lane never ends.
        runtime.shutdown_background();
        assert!(answer.contains("\r\n\r\nsecond: lane "), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn two_pipelines_drain_side_by_side_within_one_grace_period() {
        let trouble = Trouble::WriteNeverEnds;
        let settings = ScriptedSettings::default();
        let (service, context) =
            (Scripted { trouble, second: Some(trouble), settings }, Context::default());
        let running = service.start(&context).await.unwrap();
        // Until then both messages are in flight.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (began, grace) = (tokio::time::Instant::now(), Duration::from_secs(8));

        let left = running.shutdown(grace).await.unwrap_err();

        assert!(began.elapsed() <= grace, "{:?}", began.elapsed());
        assert_eq!(
            format!("{left:#}"),
            "pipeline scripted: 1 messages were not settled within 8s and will be delivered again"
        );
        assert_eq!(context.health.report()["counts"]["in_flight_messages"], 0);
    }
}
