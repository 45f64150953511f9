//! Enrich in a program of your own, with clients and credentials of that program.
//!
//! `cargo run -p enrich --example own_clients -- KEY_FILE services/enrich/example.yaml`

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use enrich::config::Settings;
use enrich::{Clients, Enrich, RedisClient};
use google_cloud_auth::credentials::service_account;
use service::Hosted;
use service::settings::load;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    service::install_crypto();
    let mut args = std::env::args().skip(1);
    let (key, config) = args.next().zip(args.next()).context("give a key and the settings")?;
    let settings: Settings =
        load(Some(config.as_ref()), std::env::vars()).map_err(|faults| anyhow!("{faults}"))?;
    run(settings, &std::fs::read_to_string(key)?).await
}

async fn run(settings: Settings, key: &str) -> anyhow::Result<()> {
    let mut hosted = Hosted::start(with_own_clients(settings, key)?).await?;
    tokio::select! {
        error = hosted.ended() => return Err(error),
        stop = tokio::signal::ctrl_c() => stop?,
    }
    hosted.shutdown(Duration::from_secs(30)).await
}

/// Returns enrich with credentials from this key, and with a client of Redis.
pub(crate) fn with_own_clients(settings: Settings, key: &str) -> anyhow::Result<Enrich> {
    let credentials = service_account::Builder::new(serde_json::from_str(key)?).build()?;
    let redis = redis::Client::open("redis://localhost:6379")?;
    let clients = Clients { redis: Some(RedisClient::Node(redis)), ..credentials.into() };
    let service = Enrich::new(settings).with_clients(clients);
    Ok(service)
}
