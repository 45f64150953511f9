//! All parts of the platform, in the order in which they start and end.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use e2e::cloud::{Cloud, Received};
use e2e::env::TestEnv;
use e2e::hosted::HostedService;
use e2e::names::{self, ARCHIVE, DEAD_LETTER_REPORT, DEAD_LETTERS, DEVICES, Subscription};
use e2e::redis::Redis;
use emulator::{Emulator, Options};
use enrich::Enrich;
use ingestion::Ingestion;

use crate::args::{Args, Profile};
use crate::broker::Broker;
use crate::engine::Engine;
use crate::live_page::LivePage;
use crate::progress::Progress;
use crate::settings;

/// Longest wait for the services to become ready.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest drain of each service.
const GRACE: Duration = Duration::from_secs(30);

/// Running platform.
pub(crate) struct LocalEnv {
    pub servers: TestEnv<Emulator, Option<Broker>, PathBuf>,
    /// Services with a pipeline, in the order of the flow.
    pub services: Vec<HostedService>,
    /// URL of ingest over HTTP, without its path.
    pub ingest: String,
    pub destination: Destination,
    pub page: LivePage,
}

/// Place in which messages end.
pub(crate) enum Destination {
    /// Table and archive in the embedded cloud.
    Google,
    /// PostgreSQL.
    Engine(Box<Engine>),
}

impl LocalEnv {
    /// Starts all parts, and returns when they are ready.
    pub(crate) async fn start(args: &Args, data_dir: &Path) -> anyhow::Result<Self> {
        check_ports(args)?;
        if args.profile == Profile::Engine {
            e2e::postgres::require()?;
        }
        std::fs::create_dir_all(data_dir)
            .with_context(|| format!("create the data folder {}", data_dir.display()))?;
        let broker = match args.profile {
            Profile::Google => {
                let home = data_dir.join("broker");
                Some(Broker::start(args.broker, &home, args.mqtt_port).await?)
            }
            Profile::Engine => None,
        };
        let options = Options {
            port: args.cloud_port,
            data_dir: Some(data_dir.to_owned()),
            profile: profile(args),
            ..Options::default()
        };
        let server = Emulator::start(options).await.context("choose another with --cloud-port")?;
        let cloud = Cloud::embedded(&server.url());
        create_resources(&cloud, args).await?;
        // Without redis-server, enrich has two cache layers instead of three.
        let redis = match e2e::redis::program() {
            Some(_) => Some(Redis::start().await?),
            None => None,
        };
        let folder = std::path::absolute(data_dir).context("find the data folder")?;
        let servers = TestEnv { broker, redis, server, cloud, folder };
        let (services, destination) = start_services(args, &servers, data_dir).await?;
        for service in &services {
            service.ready(PATIENCE).await?;
        }
        if let Destination::Engine(engine) = &destination {
            engine.query.ready(PATIENCE).await?;
        }
        let page = LivePage::start(args, &services, &servers.cloud).await?;
        let ingest = format!("http://127.0.0.1:{}", args.ingest_port);
        let mut env = Self { servers, services, ingest, destination, page };
        env.ingest = env.ingest_url().context("find the address of ingest over HTTP")?;
        Ok(env)
    }

    /// Returns all services in this process.
    pub(crate) fn hosted(&self) -> impl Iterator<Item = &HostedService> {
        let query = match &self.destination {
            Destination::Google => None,
            Destination::Engine(engine) => Some(&engine.query),
        };
        self.services.iter().chain(query)
    }

    fn ingest_url(&self) -> Option<String> {
        let report = self.services.first()?.hosted.health().report();
        Some(format!("http://{}", report["http_ingest"].as_str()?))
    }

    /// Returns the reason why a service cannot go on. Never returns while all services run. Cancel
    /// safe.
    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        let query = match &mut self.destination {
            Destination::Google => None,
            Destination::Engine(engine) => Some(&mut engine.query),
        };
        let ended =
            self.services.iter_mut().chain(query).map(|service| {
                Box::pin(async { service.hosted.ended().await.context(service.name) })
            });
        futures::future::select_all(ended).await.0
    }

    /// Returns the messages in the dead letters.
    pub(crate) async fn dead_letters(&self) -> anyhow::Result<Vec<Received>> {
        let mut dead_letters = Vec::new();
        loop {
            let pulled = self.servers.cloud.pull(DEAD_LETTER_REPORT).await?;
            if pulled.is_empty() {
                return Ok(dead_letters);
            }
            dead_letters.extend(pulled);
        }
    }

    /// Drains the services in the order of the flow. The cloud keeps running, so that its content
    /// can be read.
    pub(crate) async fn drain(&mut self) -> anyhow::Result<()> {
        for service in self.services.drain(..) {
            let seconds = GRACE.as_secs();
            Progress::begin(&format!("draining {}, at most {seconds} s", service.name));
            service.shutdown(GRACE).await?;
        }
        Ok(())
    }

    /// Stops the remaining parts.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.page.stop().await;
        if let Destination::Engine(engine) = self.destination {
            engine.query.shutdown(GRACE).await?;
            engine.server.stop().await?;
        }
        if let Some(mut redis) = self.servers.redis {
            redis.kill().await?;
        }
        if let Some(broker) = self.servers.broker {
            broker.stop().await?;
        }
        self.servers.server.shutdown().await;
        Ok(())
    }
}

/// Starts the services of the profile.
async fn start_services(
    args: &Args,
    servers: &TestEnv<Emulator, Option<Broker>, PathBuf>,
    data_dir: &Path,
) -> anyhow::Result<(Vec<HostedService>, Destination)> {
    let TestEnv { broker, redis, cloud, .. } = servers;
    let protocol = broker.as_ref().map(Broker::protocol);
    let all = settings::of(args, protocol, redis.as_ref().map(Redis::url), cloud);
    let folder = data_dir.join("settings");
    match args.profile {
        Profile::Google => {
            all.write(&folder).context("write the services' settings")?;
            Ok((HostedService::start_all(&all).await?, Destination::Google))
        }
        Profile::Engine => {
            settings::write(&folder, "ingestion", &all.ingestion)?;
            settings::write(&folder, "enrich", &all.enrich)?;
            let (engine, writer) = Engine::start(args, cloud, data_dir).await?;
            let services = vec![
                HostedService::start(Ingestion::new(all.ingestion)).await?,
                HostedService::start(Enrich::new(all.enrich)).await?,
                writer,
            ];
            Ok((services, Destination::Engine(Box::new(engine))))
        }
    }
}

/// Returns the behaviour of the embedded cloud. Google's knows only projects that were created.
fn profile(args: &Args) -> emulator::Profile {
    let own = emulator::Profile::default;
    if args.like_google { emulator::Profile::like_google().with_project("local") } else { own() }
}

/// Refuses ports that are in use, before anything is started or written.
fn check_ports(args: &Args) -> anyhow::Result<()> {
    let mut ports = vec![
        (args.cloud_port, "the embedded cloud: choose another with --cloud-port"),
        (args.live_port(), "the live page: choose another with --live-port"),
    ];
    // With port 0, each listener takes a free port.
    ports.push((args.ingest_port, "ingest over HTTP: choose another with --ingest-port"));
    match args.profile {
        Profile::Google => {
            ports.push((args.mqtt_port, "MQTT: choose another with --mqtt-port"));
        }
        Profile::Engine => {
            ports.push((args.query_port, "query: choose another with --query-port"));
        }
    }
    let services = if args.http_port == 0 { 0 } else { 4 };
    ports.extend((0..services).map(|index| {
        (args.http_port.saturating_add(index), "the services: choose others with --http-port")
    }));
    for (port, whose) in ports {
        TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .with_context(|| format!("listen on 127.0.0.1:{port} for {whose}"))?;
    }
    Ok(())
}

/// Creates the resources that the services and their tools need in the cloud.
async fn create_resources(cloud: &Cloud, args: &Args) -> anyhow::Result<()> {
    // Nobody would read the messages of a subscription without its service.
    let has_archive = args.profile == Profile::Google;
    let is_read = |subscription: &Subscription| has_archive || subscription.id != ARCHIVE;
    let subscriptions: Vec<_> = names::SUBSCRIPTIONS.into_iter().filter(is_read).collect();
    cloud.create_resources(&subscriptions).await?;
    cloud.create_subscription(DEAD_LETTERS, DEAD_LETTERS).await?;
    cloud.put_documents(DEVICES, e2e::reading::documents(args.devices)).await
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn a_cloud_like_googles_knows_the_own_project_alone() {
        let profile =
            |options: &[&str]| profile(&Args::parse_from([&["dataflow"], options].concat()));

        let like_google = emulator::Profile::like_google().with_project("local");
        assert_eq!(profile(&["--like-google"]), like_google);
        assert_eq!(profile(&[]), emulator::Profile::default());
    }

    #[test]
    fn a_port_that_is_taken_is_told_before_anything_is_written() {
        let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port_of = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let taken = listen();
        let (port, spare) = (port_of(&taken), format!("--mqtt-port={}", port_of(&listen())));
        let free = [&*spare, "--cloud-port=0", "--http-port=0", "--ingest-port=0", "--live-port=0"];
        let engine = [&free[1..], &["--profile=engine", "--query-port=0"]].concat();
        for (option, others) in [
            ("--mqtt-port", &free[..]),
            ("--cloud-port", &free),
            ("--http-port", &free),
            ("--ingest-port", &free),
            ("--live-port", &free),
            ("--query-port", &engine),
        ] {
            let own = format!("{option}={port}");
            let others = others.iter().copied().filter(|other| !other.starts_with(option));
            let args = Args::parse_from(std::iter::once("dataflow").chain(others).chain([&*own]));

            let error = format!("{:#}", check_ports(&args).unwrap_err());
            assert!(error.contains(option), "{error}");
            assert!(error.contains(&port.to_string()), "{error}");
        }
    }
}
