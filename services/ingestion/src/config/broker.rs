//! URL of the broker.

use std::str::FromStr;

use service::settings;

/// Form of the URL.
const FORM: &str = "mqtt://host:port, or mqtts://host:port for TLS";
/// Schemes without TLS. Other clients of MQTT use the second one.
const PLAIN: [&str; 2] = ["mqtt", "tcp"];
/// Schemes with TLS.
const TLS: [&str; 3] = ["mqtts", "ssl", "tls"];
/// Schemes of MQTT over WebSocket.
const WEB_SOCKET: [&str; 2] = ["ws", "wss"];

/// Address of the broker, from its URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    host: String,
    port: u16,
    is_tls: bool,
}

impl Broker {
    /// Returns the host: a name or an address.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns whether the connection is encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }
}

/// Returns whether a URL asks for TLS, even if the rest of it is wrong.
pub(super) fn asks_for_tls(url: &str) -> bool {
    url.split_once("://").is_some_and(|(scheme, _)| TLS.contains(&scheme))
}

impl FromStr for Broker {
    type Err = String;

    /// Parses a URL. The error never repeats it, because it may hold a password.
    fn from_str(url: &str) -> Result<Self, String> {
        if url.contains('@') {
            return Err("must not have a user or password: set mqtt.username and \
                        mqtt.password_file, or MQTT_USERNAME and MQTT_PASSWORD"
                .into());
        }
        if url.is_empty() {
            return Err(format!("required, as {FORM}"));
        }
        let (address, usual, is_tls) = match url.split_once("://") {
            Some((scheme, address)) if TLS.contains(&scheme) => (address, "8883", true),
            Some((scheme, address)) if PLAIN.contains(&scheme) => (address, "1883", false),
            Some((scheme, _)) if WEB_SOCKET.contains(&scheme) => {
                return Err(format!(
                    "MQTT over WebSocket is not spoken here: name the broker's port for plain MQTT, as {FORM}"
                ));
            }
            Some(_) | None => {
                return Err(format!(
                    "must begin with mqtt:// or mqtts://, as {FORM}; tcp://, ssl:// and tls:// are \
                     taken too"
                ));
            }
        };
        let (host, port) = split(address, usual).ok_or_else(|| {
            format!("must be {FORM}, without a path, and with a port from 1 to 65535")
        })?;
        settings::host::check(host).map_err(|why| format!("its host {why}, as {FORM}"))?;
        Ok(Self { host: host.to_owned(), port, is_tls })
    }
}

/// Splits an address into host and port.
fn split<'a>(address: &'a str, usual: &'a str) -> Option<(&'a str, u16)> {
    let address = address.strip_suffix('/').unwrap_or(address);
    let (host, port) = match address.strip_prefix('[') {
        // An IPv6 address is in brackets.
        Some(address) => {
            let (host, port) = address.split_once(']')?;
            (host, if port.is_empty() { usual } else { port.strip_prefix(':')? })
        }
        None => address.rsplit_once(':').unwrap_or((address, usual)),
    };
    // Not a number, or too large.
    let port = port.parse().ok()?;
    (!host.contains('/')).then_some((host, port))
}
