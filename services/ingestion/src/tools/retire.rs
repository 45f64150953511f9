//! Subcommand `ingestion retire`, for a replica that was removed permanently.

use anyhow::Context as _;
use clap::{Arg, ArgMatches, Command, value_parser};

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

/// Returns the subcommand.
#[must_use]
pub fn command() -> Command {
    let ordinal = Arg::new("ordinal")
        .long("ordinal")
        .value_name("N")
        .value_parser(value_parser!(u32))
        .help("Which replica goes; required, unless mqtt.ordinal or this host's name (ingestion-2) says it");
    Command::new("retire")
        .about(
            "Unsubscribes, carries what the broker still holds, and ends the sessions (for scale-in)",
        )
        .long_about(LONG_ABOUT)
        .arg(ordinal)
}

/// Retires a replica.
///
/// # Errors
/// Fails when the replica is not specified, is alive, or when a message could not be carried. The
/// sessions stay then. Also fails when the broker has no session of that replica.
pub async fn act(mut settings: Settings, given: ArgMatches) -> anyhow::Result<()> {
    let ordinal = given.get_one("ordinal").copied();
    let ordinal = ordinal.or(settings.mqtt.ordinal).or_else(host::ordinal);
    settings.mqtt.ordinal = Some(ordinal.context(
        "which replica goes? give --ordinal N (neither mqtt.ordinal nor the host's name says it)",
    )?);
    // The file may belong to a replica that is alive in this container.
    settings.pipeline.crash_file = None;
    Ingestion::new(settings).retire().await
}
