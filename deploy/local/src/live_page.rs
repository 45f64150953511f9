//! Live page of the services in this process.

use std::net::SocketAddr;
use std::time::Duration;

use e2e::cloud::Cloud;
use e2e::hosted::HostedService;
use e2e::names::DEAD_LETTERS;
use live::Live;
use live::settings::{Replay, Settings, Stage};
use pubsub::Endpoint;
use web::{Bound, Listener, Metrics, Open, Reach, Server};

use crate::args::Args;

/// Longest drain of the listener.
const GRACE: Duration = Duration::from_secs(5);

/// Running live page.
pub(crate) struct LivePage {
    live: Live,
    server: Server,
    address: SocketAddr,
}

impl LivePage {
    /// Starts the page of these services, which must be ready.
    pub(crate) async fn start(
        args: &Args,
        services: &[HostedService],
        cloud: &Cloud,
    ) -> anyhow::Result<Self> {
        let listener = Listener { port: args.live_port(), ..Listener::default() };
        let bound = Bound::bind(&listener, "live", Open::on_loopback()).await?;
        let bound_address = bound.address();
        let live = Live::start(&settings(services, cloud), Reach::Loopback)?;
        let server = bound.with_open(live.page()).serve(live.routes(), &Metrics::default());
        Ok(Self { live, server, address: bound_address })
    }

    /// Returns the address of the page.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends the page.
    pub(crate) async fn stop(self) {
        self.live.shutdown().await;
        self.server.shutdown(GRACE).await;
    }
}

fn settings(services: &[HostedService], cloud: &Cloud) -> Settings {
    let ingest = services.iter().find_map(|service| {
        let report = service.hosted.health().report();
        report["http_ingest"].as_str().map(|address| format!("http://{address}"))
    });
    let pubsub = Endpoint {
        endpoint: cloud.endpoint(|urls| &urls.pubsub).map(Into::into),
        ..Endpoint::default()
    };
    Settings {
        services: services.iter().map(stage).collect(),
        ingest_url: ingest,
        dead_letters: Some(Replay {
            project: cloud.project.clone(),
            subscription: DEAD_LETTERS.into(),
            pubsub,
        }),
        ..Settings::default()
    }
}

/// Returns a service with its place in the flow.
fn stage(service: &HostedService) -> Stage {
    let from = match service.name {
        "enrich" => Some("ingestion"),
        "bigqueries" | "icestore" | "postgres" => Some("enrich"),
        _ => None,
    };
    let report = service.hosted.health().report();
    Stage {
        name: service.name.into(),
        url: format!("http://{}", service.hosted.address()),
        from: from.map(Into::into),
        subscription: report["settings"]["subscription"]["id"].as_str().map(Into::into),
    }
}
