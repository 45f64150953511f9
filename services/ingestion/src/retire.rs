//! `ingestion retire`: the end of a replica that goes for good.

use clap::{Arg, ArgMatches, Command, value_parser};

use crate::Ingestion;
use crate::config::Settings;

/// The subcommand.
#[must_use]
pub fn command() -> Command {
    let ordinal = Arg::new("ordinal")
        .long("ordinal")
        .value_name("N")
        .value_parser(value_parser!(u32))
        .help("Which replica goes; by default the one of the settings, or of this host's name");
    Command::new("retire")
        .about(
            "Unsubscribes, carries what the broker still holds, and ends the sessions (for scale-in)",
        )
        .arg(ordinal)
}

/// Retires.
///
/// # Errors
/// When a message could not be carried; the sessions stay then.
pub async fn act(mut settings: Settings, given: ArgMatches) -> anyhow::Result<()> {
    settings.mqtt.ordinal = given.get_one("ordinal").copied().or(settings.mqtt.ordinal);
    Ingestion::new(settings).retire().await
}
