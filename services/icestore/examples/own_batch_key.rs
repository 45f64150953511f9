//! Icestore with a custom batch key: one folder for each tenant and ISO week.
//!
//! `cargo run -p icestore --example own_batch_key -- --config services/icestore/example.yaml`

use std::process::ExitCode;

use icestore::Icestore;
use icestore::config::Settings;
use icestore::key::{BatchKey, safe};
use icestore::tools::ACTIONS;
use message::{Envelope, Message};

pub(crate) struct TenantAndWeek;

impl BatchKey for TenantAndWeek {
    fn key(&self, message: &Message, envelope: &Envelope) -> String {
        let time = envelope.publish_time.unwrap_or(message.publish_time);
        let tenant = message.attributes.get("tenant").and_then(|tenant| safe(tenant));
        let (year, week, _) = time.to_iso_week_date();
        format!("{}/{year}-W{week:02}", tenant.as_deref().unwrap_or("none"))
    }
}

/// Returns icestore with this batch key.
pub(crate) fn with_own_batch_key(settings: Settings) -> Icestore<TenantAndWeek> {
    Icestore::with_batch_key(settings, TenantAndWeek)
}

fn main() -> ExitCode {
    service::run("Icestore that files by tenant and week", &ACTIONS, with_own_batch_key)
}
