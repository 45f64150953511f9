//! The page over all services, a real broker and the embedded cloud.

use std::time::Duration;

use e2e::cloud::Cloud;
use e2e::env::TestEnv;
use e2e::fleet::{Fleet, FleetPlan};
use e2e::hosted::HostedService;
use e2e::mosquitto::Mosquitto;
use e2e::names::{self, ARCHIVE, DEAD_LETTERS, DEVICES, ENRICH, ROUTE, ROWS};
use e2e::timings::{self, Timings};
use emulator::{Emulator, Options};
use ingestion::config::{HttpIngest, RouteSettings};
use live::Live;
use live::settings::{Replay, Settings, Stage};
use pubsub::Endpoint;
use web::{Bound, Listener, Metrics, Open, Reach, Server};

use crate::browser::{Browser, Scheme, Screen};
use crate::{PATIENCE, screenshots, until};

/// Grace period of a service, and of the listener of the page.
const GRACE: Duration = Duration::from_secs(20);
/// Longest time from the PUBACK of a message until the page shows it.
const FRESHNESS: Duration = Duration::from_secs(2);

/// All services, with the server of the page.
struct Chain {
    env: TestEnv<Emulator>,
    services: Vec<HostedService>,
    live: Live,
    server: Server,
    url: String,
    _timings: Timings,
}

impl Chain {
    /// Starts everything, and a browser that shows the page. Returns `None` without a browser.
    async fn open(screen: Screen) -> Option<(Self, Browser)> {
        let browser = Browser::start(screen).await?;
        let chain = Self::start().await;
        browser.open(&chain.url).await;
        browser.shows("#headline", "All 4 services are ready").await;
        Some((chain, browser))
    }

    async fn start() -> Self {
        let timings = Timings::start(timings::RESOURCES);
        service::install_crypto();
        let folder = tempfile::tempdir().unwrap();
        let broker = Mosquitto::start(&folder.path().join("broker"), 0).await.unwrap();
        let server = Emulator::start(Options::default()).await.unwrap();
        let cloud = Cloud::embedded(&server.url());
        cloud.create_resources(&names::SUBSCRIPTIONS).await.unwrap();
        cloud.create_subscription(DEAD_LETTERS, DEAD_LETTERS).await.unwrap();
        cloud.put_documents(DEVICES, e2e::reading::documents(50)).await.unwrap();
        let env = TestEnv { broker, redis: None, server, cloud, folder };
        let mut settings = env.settings();
        let mut route = RouteSettings::default();
        route.source.http_source = Some("{device_id}".into());
        route.destination.route_name = ROUTE.into();
        settings.ingestion.routes.insert("http".into(), route);
        settings.ingestion.http_ingest = Some(HttpIngest { port: 0, ..HttpIngest::default() });
        settings.ingestion.mqtt.reconnect.max = Duration::from_millis(500);
        settings.icestore.pipeline.batch.max_age = Duration::from_millis(500);
        let services = HostedService::start_all(&settings).await.unwrap();
        for service in &services {
            service.ready(PATIENCE).await.unwrap();
        }
        let listener = Listener { port: 0, ..Listener::default() };
        let bound = Bound::bind(&listener, "live", Open::on_loopback()).await.unwrap();
        let url = format!("http://{}/", bound.address());
        let live = Live::start(&page_settings(&services, &env.cloud), Reach::Loopback).unwrap();
        let server = bound.with_open(live.page()).serve(live.routes(), &Metrics::default());
        Self { env, services, live, server, url, _timings: timings }
    }

    /// Starts devices that send this many messages over MQTT.
    fn fleet(&self, messages: u64) -> Fleet {
        Fleet::start(FleetPlan {
            port: self.env.broker.port(),
            devices: 50,
            messages: Some(messages),
            rate: 100,
            ..FleetPlan::default()
        })
    }

    async fn stop(self) {
        self.live.shutdown().await;
        self.server.shutdown(GRACE).await;
        for service in self.services {
            service.hosted.shutdown(GRACE).await.unwrap();
        }
    }
}

fn page_settings(services: &[HostedService], cloud: &Cloud) -> Settings {
    let places = [
        (None, None),
        (Some("ingestion"), Some(ENRICH)),
        (Some("enrich"), Some(ROWS)),
        (Some("enrich"), Some(ARCHIVE)),
    ];
    let stages = services.iter().zip(places).map(|(service, (from, subscription))| Stage {
        name: service.name.into(),
        url: format!("http://{}", service.hosted.address()),
        from: from.map(Into::into),
        subscription: subscription.map(Into::into),
    });
    let report = services[0].hosted.health().report();
    let ingest = report["http_ingest"].as_str().unwrap();
    let endpoint = cloud.endpoint(|urls| &urls.pubsub).map(Into::into);
    Settings {
        services: stages.collect(),
        ingest_url: Some(format!("http://{ingest}")),
        dead_letters: Some(Replay {
            project: cloud.project.clone(),
            subscription: DEAD_LETTERS.into(),
            pubsub: Endpoint { endpoint, ..Endpoint::default() },
        }),
        ..Settings::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_on_the_page_within_two_seconds_of_its_puback() {
    let Some((chain, browser)) = Chain::open(Screen::Wide).await else { return };

    let mut delays = Vec::new();
    for number in 1..=5 {
        let mut fleet = chain.fleet(1);
        fleet.finish().await;
        let acknowledged = fleet.log().acknowledged()[0].1;
        let count = "[data-stage=ingestion] .total-received";
        let body = format!("return document.querySelector('{count}').textContent === '{number}'");
        until("the message", async || browser.script(&body).await == true).await;
        delays.push(acknowledged.elapsed());
    }
    // The median, because a busy machine may stop for a moment.
    delays.sort_unstable();

    assert!(delays[2] < FRESHNESS, "{delays:?}");
    browser.shows("[data-latency=bigqueries] .scale-count", "5").await;
    browser.shows("[data-latency='confirmed to icestore'] .scale-count", "5").await;
    browser.shows("#promises", "at least once").await;
    chain.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_sent_and_followed_to_its_row_and_its_object() {
    let Some((chain, browser)) = Chain::open(Screen::Wide).await else { return };

    browser.fill("#send-device", "device-00007").await;
    browser.fill("#send-payload", "{\"temperature\": 21.5}").await;
    browser.click("#send button").await;

    browser.shows("#trace-status", "Durable in bigqueries and icestore").await;
    browser
        .script("document.querySelectorAll('.record').forEach((part) => { part.open = true; })")
        .await;
    for (stage, part) in [
        ("ingestion", "\"temperature\": 21.5"),
        ("ingestion", "to raw"),
        ("enrich", "\"location\": "),
        ("enrich", "to enriched"),
        ("bigqueries", "\"device_id\": \"device-00007\""),
        ("bigqueries", "readings"),
        ("icestore", "gs://archive/"),
    ] {
        browser.shows(&format!("[data-step-stage={stage}]"), part).await;
    }
    browser.shows("#trace-facts", "confirmed to durable").await;
    assert_eq!(browser.console().await, Vec::<String>::new());
    let requests = browser.requests().await;
    let foreign =
        requests.iter().find(|url| !url.starts_with(&chain.url) && !url.starts_with("data:"));
    assert_eq!(foreign, None);
    chain.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_shown_and_comes_again_after_its_replay() {
    let Some((chain, browser)) = Chain::open(Screen::Wide).await else { return };
    browser.click("#letters-example").await;
    browser.click("#send button").await;
    browser.shows("#trace-status", "row_type_mismatch").await;
    browser.shows(".letter .reason", "row_type_mismatch").await;
    browser.shows(".letter .detail", "temperature").await;

    browser.click(".letter .actions button").await;
    browser.click(".letter .actions .primary").await;

    browser.shows("#announce", "was replayed").await;
    // Its cause remains, so it is refused again.
    browser.shows("#letters-badge", "2").await;
    let two = "const all = document.querySelectorAll('.letter'); return all.length === 2 \
               && [...all].filter((one) => one.textContent.includes('Replayed at')).length === 1";
    until("both letters", async || browser.script(two).await == true).await;
    chain.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loss_of_the_broker_and_of_the_server_are_said() {
    let Some((mut chain, browser)) = Chain::open(Screen::Wide).await else { return };

    chain.env.broker.stop().await.unwrap();
    browser.shows("#headline", "The MQTT broker is gone").await;
    chain.env.broker.start_again().await.unwrap();
    browser.shows("#headline", "All 4 services are ready").await;

    let icestore = chain.services.pop().unwrap();
    icestore.hosted.shutdown(GRACE).await.unwrap();
    browser.shows("#headline", "icestore does not answer").await;

    chain.stop().await;
    browser.shows("#lost", "This page has lost its server.").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_of_a_busy_chain_are_small() {
    for (screen, scheme, name, last) in [
        (Screen::Wide, Scheme::Light, "live.png", "#latency"),
        (Screen::Narrow, Scheme::Dark, "live-narrow.png", "#chain"),
    ] {
        let Some((chain, browser)) = Chain::open(screen).await else { return };
        browser.prefer(scheme).await;
        let mut fleet = chain.fleet(1_000);
        fleet.finish().await;
        browser.shows("[data-latency='confirmed to icestore'] .v50", "s").await;

        screenshots::take(&browser, name, last).await;
        chain.stop().await;
    }
}
