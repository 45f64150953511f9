//! Subcommand `ingestion retire`, for a replica that was removed permanently.

use anyhow::Context as _;
use clap::Parser;
use service::Tool;

use crate::config::Settings;
use crate::{Ingestion, host};

/// Long help text.
const LONG_ABOUT: &str = "\
Unsubscribes, carries what the broker still holds, and ends the sessions (for scale-in).

First it takes the session over, and waits whether a living replica takes it back. This takes
mqtt.reconnect.max + mqtt.connect_timeout + 5s: 2m 15s by default. A replica that connects in this
time keeps its session, and the command fails. Do not run it for a living replica: that one is not
ready meanwhile, and messages that both carry arrive twice, with different ids.

Exits with 1 if the broker has no session of this replica, as after a wrong ordinal: nothing is retired.";

/// Retires a replica.
#[derive(Debug, Parser)]
#[command(
    name = "retire",
    about = "Unsubscribes, carries what the broker still holds, and ends the sessions (for scale-in)",
    long_about = LONG_ABOUT
)]
pub struct Retire {
    #[arg(
        long,
        value_name = "N",
        help = "Which replica goes; required, unless mqtt.ordinal or this host's name (ingestion-2) says it"
    )]
    ordinal: Option<u32>,
}

impl Tool<Settings> for Retire {
    /// Retires a replica.
    ///
    /// # Errors
    /// Fails when the replica is not specified, is alive, or when a message could not be carried.
    /// The sessions stay then. Also fails when the broker has no session of that replica.
    async fn run(self, mut settings: Settings) -> anyhow::Result<()> {
        let ordinal = self.ordinal.or(settings.mqtt.ordinal).or_else(host::ordinal);
        settings.mqtt.ordinal = Some(ordinal.context(
            "which replica goes? give --ordinal N (neither mqtt.ordinal nor the host's name says it)",
        )?);
        // The file may belong to a replica that is alive in this container.
        settings.pipeline.crash_file = None;
        Ingestion::new(settings).retire().await
    }
}
