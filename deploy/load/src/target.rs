//! Target of a run.

use std::fmt;

use reqwest::Url;
use service::settings::url;

/// Form of a target.
const LIKE: &str = "must be mqtt://host:port, mqtts://host:port or http://host:port/ingest";
/// Place of credentials, which a URL must not hold.
const INSTEAD: &str = "use --username and --password-file, --api-key-file or --token-file";

/// Target of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// MQTT broker.
    Broker(Broker),
    /// Ingest over HTTP.
    Ingest(Url),
}

/// Address of an MQTT broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broker {
    /// Host, without the brackets of an IPv6 address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// True if the connections have TLS.
    pub is_tls: bool,
}

impl Target {
    /// Reads a target. The path of ingest over HTTP is `/ingest` if there is none.
    ///
    /// # Errors
    /// Returns what would be right.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let parts = url::split(text, &["mqtt", "mqtts", "http", "https"], LIKE);
        let parts = parts.map_err(|wrong| format!("TARGET {}", wrong.because(INSTEAD)))?;
        if parts.scheme.starts_with("http") {
            let mut url = Url::parse(text).map_err(|error| format!("TARGET {LIKE}: {error}"))?;
            if parts.path.is_empty() {
                url.set_path("/ingest");
            }
            return Ok(Self::Ingest(url));
        }
        let is_tls = parts.scheme == "mqtts";
        let authority = text.split("://").nth(1).unwrap_or_default();
        let authority = authority.split('/').next().unwrap_or_default();
        let port = authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']'));
        let port = match port {
            Some((_, port)) => port.parse().map_err(|_| format!("TARGET {LIKE}"))?,
            None if is_tls => 8883,
            None => 1883,
        };
        Ok(Self::Broker(Broker { host: parts.host.to_owned(), port, is_tls }))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ingest(url) => write!(f, "{url}"),
            Self::Broker(Broker { host, port, is_tls }) => {
                let scheme = if *is_tls { "mqtts" } else { "mqtt" };
                match host.contains(':') {
                    true => write!(f, "{scheme}://[{host}]:{port}"),
                    false => write!(f, "{scheme}://{host}:{port}"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_shown_with_the_usual_port_and_path() {
        for (text, shown) in [
            ("mqtt://broker", "mqtt://broker:1883"),
            ("mqtts://broker/", "mqtts://broker:8883"),
            ("mqtt://[::1]:1884", "mqtt://[::1]:1884"),
            ("mqtt://[::1]", "mqtt://[::1]:1883"),
            ("http://127.0.0.1:8088", "http://127.0.0.1:8088/ingest"),
            ("https://in.example/v1/ingest", "https://in.example/v1/ingest"),
        ] {
            assert_eq!(Target::parse(text).map(|target| target.to_string()), Ok(shown.into()));
        }
    }

    #[test]
    fn a_target_with_a_password_or_another_scheme_is_refused() {
        let secret = Target::parse("mqtt://user:hunter2@broker").unwrap_err();
        let other = Target::parse("amqp://broker").unwrap_err();

        assert!(secret.contains("--password-file") && !secret.contains("hunter2"), "{secret}");
        assert!(other.contains("must be mqtt://host:port"), "{other}");
    }
}
