//! Command line of the load generator.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args as Group, Parser, ValueEnum, value_parser};
use humantime_serde::re::humantime;

/// Templates and exit codes, as `--help` explains them.
const HELP: &str = r#"Templates:
  {{device}}                  name of the device, such as device-00007
  {{index}}                   number of the device, from 0
  {{seq}}, {{seq 100 5}}      number of the message of this device: 0, 1, 2; or 100, 105, 110
  {{number}}                  number of the message over all devices, from 0
  {{walk 20 0.5}}             random walk from 20 in steps up to 0.5; {{walk 20 0.5 0 40}} has bounds
  {{random 1 6}}              random number from 1 to 6, with as many decimals as its bounds
  {{pick red green blue}}     one of these words
  {{now}}, {{now ms}}         time of sending, in RFC 3339 or in milliseconds since 1970
  {{uuid}}, {{run}}           a new UUID; the id of this run
  {{pad 100}}                 100 hexadecimal digits, to make a payload larger
  {{open}}                    two braces: {{

  --template '{"device":"{{device}}","seq":{{seq}},"t":{{walk 20 0.5}},"at":"{{now}}"}'

Exit codes:
  0  every planned message was sent and confirmed
  1  the run could not start, or its report could not be written
  2  the arguments are wrong
  3  messages were refused, all others are confirmed
  4  messages are unconfirmed
  5  what was sent is confirmed, but not all planned messages were sent

Ctrl-C stops sending, waits for what is under way, and prints the report. A second one does not wait.
docs/load.md has more."#;

/// Sends messages of simulated devices over MQTT or HTTP, and reports what was confirmed.
#[derive(Debug, Clone, Parser)]
#[command(name = "load", version, after_help = HELP, group(ArgGroup::new("content")))]
pub(crate) struct Args {
    /// mqtt://HOST:PORT, mqtts://HOST:PORT, or the URL of ingest over HTTP.
    #[arg(value_name = "TARGET")]
    pub target: String,
    #[command(flatten)]
    pub amount: Amount,
    #[command(flatten)]
    pub content: ContentArgs,
    #[command(flatten)]
    pub mqtt: Mqtt,
    #[command(flatten)]
    pub http: Http,
    /// Most messages of a device that wait for their confirmation.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = value_parser!(u16).range(1..))]
    pub max_in_flight: u16,
    /// Longest wait for confirmations after the last message, and for late messages of a rate.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    pub grace: Duration,
    /// Longest time without any confirmation. Then sending stops.
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = humantime::parse_duration)]
    pub patience: Duration,
    /// Write the report to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Print each message instead of sending it: its topic or source, a tab, and the payload.
    #[arg(long)]
    pub dry_run: bool,
}

/// Number of messages, and their rate.
#[derive(Debug, Clone, Group)]
#[command(next_help_heading = "Amount")]
pub(crate) struct Amount {
    /// Number of devices. With MQTT each has a connection.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub devices: u32,
    /// Messages to send over all devices; by default until --duration or Ctrl-C.
    #[arg(long, value_name = "N")]
    pub messages: Option<u64>,
    /// Time for which messages are sent, such as 30s or 5m.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub duration: Option<Duration>,
    /// Messages a second over all devices; by default as fast as they are confirmed.
    #[arg(long, value_name = "R", value_parser = rate, conflicts_with = "device_rate")]
    pub rate: Option<f64>,
    /// Messages a second of each device.
    #[arg(long, value_name = "R", value_parser = rate)]
    pub device_rate: Option<f64>,
}

/// Payloads and their addresses.
#[derive(Debug, Clone, Group)]
#[command(next_help_heading = "Payloads")]
pub(crate) struct ContentArgs {
    /// Template of the payloads.
    #[arg(long, value_name = "TEXT", group = "content")]
    pub template: Option<String>,
    /// File with the template of the payloads. A line end at its end does not count.
    #[arg(long, value_name = "FILE", group = "content")]
    pub template_file: Option<PathBuf>,
    /// File with one payload a line. They are sent in turn, and then again.
    #[arg(long, value_name = "FILE", group = "content")]
    pub lines: Option<PathBuf>,
    /// Folder, or gs://BUCKET/PREFIX, with objects that icestore wrote.
    #[arg(long, value_name = "FOLDER", group = "content", conflicts_with_all = ["rate", "device_rate"])]
    pub archive: Option<String>,
    /// Speed of an archive: 1 is the original pace, 10 is ten times as fast, or `max`.
    #[arg(long, value_name = "FACTOR", default_value = "1", value_parser = speed, requires = "archive")]
    pub speed: Speed,
    /// Template of the topics; an archive has its own.
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "devices/{{device}}/up",
        conflicts_with = "archive"
    )]
    pub topic: String,
    /// Template of the sources of items over HTTP; an archive has its own.
    #[arg(long, value_name = "TEXT", default_value = "{{device}}", conflicts_with = "archive")]
    pub source: String,
    /// Beginning of the names of devices. Their number follows it.
    #[arg(long, value_name = "TEXT", default_value = "device-")]
    pub prefix: String,
    /// Seed of random values. The same seed gives the same values; by default each run has another.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

/// Connections to a broker.
#[derive(Debug, Clone, Group)]
#[command(next_help_heading = "MQTT")]
pub(crate) struct Mqtt {
    /// Version of MQTT.
    #[arg(id = "mqtt", long, value_name = "VERSION", value_enum, default_value_t = Version::V5)]
    pub version: Version,
    /// User at the broker.
    #[arg(long, value_name = "NAME")]
    pub username: Option<String>,
    /// File with the password of the user.
    #[arg(long, value_name = "FILE", requires = "username")]
    pub password_file: Option<PathBuf>,
    /// CA certificates that verify the broker; the public ones by default.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Client certificate, for mutual TLS.
    #[arg(long, value_name = "FILE", requires = "client_key_file")]
    pub client_cert_file: Option<PathBuf>,
    /// Private key of the client certificate.
    #[arg(long, value_name = "FILE", requires = "client_cert_file")]
    pub client_key_file: Option<PathBuf>,
    /// Beginning of the client ids. A hyphen and the number of the device follow it. By default it has
    /// the id of the run.
    #[arg(long, value_name = "TEXT")]
    pub client_id: Option<String>,
    /// Longest time without a packet; 0 has no pings.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub keep_alive: u16,
    /// Longest wait until all devices are connected at the start, and for a connection later.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    pub connect_timeout: Duration,
}

/// Requests over HTTP.
#[derive(Debug, Clone, Group)]
#[command(next_help_heading = "HTTP")]
pub(crate) struct Http {
    /// Items of a request. A batch is sent when its last item is due.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u16).range(1..=1000))]
    pub batch: u16,
    /// File with an API key.
    #[arg(long, value_name = "FILE", conflicts_with = "token_file")]
    pub api_key_file: Option<PathBuf>,
    /// File with a token (JWT). It is read for each request, so a renewed one is used.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

/// Version of MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Version {
    /// MQTT 5.
    #[value(name = "5")]
    V5,
    /// MQTT 3.1.1.
    #[value(name = "3.1.1")]
    V311,
}

/// Speed at which an archive is replayed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Speed {
    /// Original pace, times this factor.
    Times(f64),
    /// As fast as messages are confirmed.
    Max,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (1e-6..=1e9).contains(&rate) => Ok(rate),
        _ => Err("must be a number above 0, such as 0.5 or 1000".into()),
    }
}

fn speed(text: &str) -> Result<Speed, String> {
    match (text, text.parse()) {
        ("max", _) => Ok(Speed::Max),
        (_, Ok(factor)) if (1e-3..=1e9).contains(&factor) => Ok(Speed::Times(factor)),
        _ => Err("must be a factor above 0, such as 1 or 10, or `max`".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn wrong(options: &[&str]) -> String {
        let all = ["load", "mqtt://127.0.0.1"].iter().chain(options);
        Args::try_parse_from(all).unwrap_err().to_string()
    }

    #[test]
    fn the_command_line_holds_together() {
        Args::command().debug_assert();

        assert!(wrong(&["--rate", "0"]).contains("must be a number above 0"));
        assert!(wrong(&["--rate=1", "--device-rate=1"]).contains("cannot be used with"));
        assert!(wrong(&["--template=a", "--lines=b"]).contains("cannot be used with"));
        assert!(wrong(&["--archive=a", "--speed=fast"]).contains("or `max`"));
        assert!(wrong(&["--mqtt", "4"]).contains("[possible values: 5, 3.1.1]"));
    }

    #[test]
    fn help_lists_every_placeholder() {
        let help = Args::command().render_long_help().to_string();

        for name in crate::template::NAMES {
            assert!(help.contains(&format!("{{{{{name}")), "{name}");
        }
    }
}
