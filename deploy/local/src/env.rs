//! All parts of the platform, in the order in which they start and end.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use e2e::cloud::{Cloud, Received};
use e2e::env::TestEnv;
use e2e::hosted::HostedService;
use e2e::names::{self, DEAD_LETTER_REPORT, DEAD_LETTERS, DEVICES};
use e2e::redis::Redis;
use emulator::{Emulator, Options, Profile};

use crate::args::Args;
use crate::broker::Broker;
use crate::live_page::LivePage;
use crate::progress::Progress;
use crate::settings;

/// Longest wait for the services to become ready.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest drain of each service.
const GRACE: Duration = Duration::from_secs(30);

/// Running platform.
pub(crate) struct LocalEnv {
    pub servers: TestEnv<Emulator, Broker, PathBuf>,
    pub services: Vec<HostedService>,
    pub page: LivePage,
}

impl LocalEnv {
    /// Starts all parts, and returns when they are ready.
    pub(crate) async fn start(args: &Args, data_dir: &Path) -> anyhow::Result<Self> {
        check_ports(args)?;
        std::fs::create_dir_all(data_dir)
            .with_context(|| format!("create the data folder {}", data_dir.display()))?;
        let home = data_dir.join("broker");
        let broker = Broker::start(args.broker, &home, args.mqtt_port).await?;
        let options = Options {
            port: args.cloud_port,
            data_dir: Some(data_dir.to_owned()),
            profile: profile(args),
            ..Options::default()
        };
        let server = Emulator::start(options).await.context("choose another with --cloud-port")?;
        let cloud = Cloud::embedded(&server.url());
        create_resources(&cloud, args.devices).await?;
        // Without redis-server, enrich has two cache layers instead of three.
        let redis = match e2e::redis::program() {
            Some(_) => Some(Redis::start().await?),
            None => None,
        };
        let folder = std::path::absolute(data_dir).context("find the data folder")?;
        let redis_url = redis.as_ref().map(Redis::url);
        let settings = settings::of(args, broker.protocol(), redis_url, &cloud);
        settings.write(&data_dir.join("settings")).context("write the services' settings")?;
        let services = HostedService::start_all(&settings).await?;
        for service in &services {
            service.ready(PATIENCE).await?;
        }
        let page = LivePage::start(args, &services, &cloud).await?;
        let servers = TestEnv { broker, redis, server, cloud, folder };
        Ok(Self { servers, services, page })
    }

    /// Returns the reason why a service cannot go on. Never returns while all services run. Cancel
    /// safe.
    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        let ended = self
            .services
            .iter_mut()
            .map(|service| Box::pin(async { service.hosted.ended().await.context(service.name) }));
        futures::future::select_all(ended).await.0
    }

    /// Returns the messages in the dead letters.
    pub(crate) async fn dead_letters(&self) -> anyhow::Result<Vec<Received>> {
        let mut letters = Vec::new();
        loop {
            let pulled = self.servers.cloud.pull(DEAD_LETTER_REPORT).await?;
            if pulled.is_empty() {
                return Ok(letters);
            }
            letters.extend(pulled);
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
        if let Some(mut redis) = self.servers.redis {
            redis.kill().await?;
        }
        self.servers.broker.stop().await?;
        self.servers.server.shutdown().await;
        Ok(())
    }
}

/// Returns the behaviour of the embedded cloud. Google's knows only projects that were created.
fn profile(args: &Args) -> Profile {
    if args.like_google { Profile::like_google().with_project("local") } else { Profile::default() }
}

/// Refuses ports that are in use, before anything is started or written.
fn check_ports(args: &Args) -> anyhow::Result<()> {
    let mut ports = vec![
        (args.mqtt_port, "MQTT: choose another with --mqtt-port"),
        (args.cloud_port, "the embedded cloud: choose another with --cloud-port"),
        (args.live_port(), "the live page: choose another with --live-port"),
    ];
    // With port 0, each service takes a free port.
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
async fn create_resources(cloud: &Cloud, devices: u32) -> anyhow::Result<()> {
    cloud.create_resources(&names::SUBSCRIPTIONS).await?;
    cloud.create_subscription(DEAD_LETTERS, DEAD_LETTERS).await?;
    cloud.put_documents(DEVICES, e2e::reading::documents(devices)).await
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn a_cloud_like_googles_knows_the_own_project_alone() {
        let profile =
            |options: &[&str]| profile(&Args::parse_from([&["dataflow"], options].concat()));

        assert_eq!(profile(&["--like-google"]), Profile::like_google().with_project("local"));
        assert_eq!(profile(&[]), Profile::default());
    }

    #[test]
    fn a_port_that_is_taken_is_told_before_anything_is_written() {
        let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port_of = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let taken = listen();
        let (port, spare) = (port_of(&taken), format!("--mqtt-port={}", port_of(&listen())));
        for option in ["--mqtt-port", "--cloud-port", "--http-port", "--live-port"] {
            let own = format!("{option}={port}");
            let free = [&*spare, "--cloud-port=0", "--http-port=0", "--live-port=0"];
            let others = free.into_iter().filter(|other| !other.starts_with(option));
            let args = Args::parse_from(std::iter::once("dataflow").chain(others).chain([&*own]));

            let error = format!("{:#}", check_ports(&args).unwrap_err());
            assert!(error.contains(option), "{error}");
            assert!(error.contains(&port.to_string()), "{error}");
        }
    }
}
