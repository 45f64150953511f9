//! Settings of a listener.

use std::net::IpAddr;
use std::str::FromStr;

use axum::http::{HeaderValue, Uri};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service::Faults;
use service::settings::Parsed;

/// Maximum of `max_body_bytes`.
const MAX_BODY_BYTES: usize = 256 * 1024 * 1024;

/// Address at which users are answered, and its limits.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Listener {
    /// Host to listen on. The default is loopback: without authentication, no other address is
    /// allowed.
    pub host: String,
    /// Port to listen on; 0 takes a free one, which `/status` shows.
    pub port: u16,
    /// Maximum size of a request's body in bytes; 1 to 256 MiB. Larger ones are refused with 413.
    pub max_body_bytes: usize,
    /// Origins whose pages may call this listener from a browser, such as `https://example.org`.
    /// Without any, browsers allow only its own pages.
    pub cors: Vec<Parsed<AllowedOrigin>>,
}

impl Default for Listener {
    fn default() -> Self {
        Self { host: "127.0.0.1".into(), port: 8081, max_body_bytes: 1024 * 1024, cors: Vec::new() }
    }
}

/// Addresses at which a listener may be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Loopback only: callers are processes of the same machine, or of the same pod.
    Loopback,
    /// Any address.
    Anywhere,
}

impl Listener {
    /// Reports all faults. `key` is the section of these settings, such as `admin`.
    pub fn check(&self, key: &str, reach: Reach, faults: &mut Faults) {
        let host = format!("{key}.host");
        faults.host(&host, &self.host);
        faults.range(&format!("{key}.max_body_bytes"), self.max_body_bytes, 1..=MAX_BODY_BYTES);
        for (index, origin) in self.cors.iter().enumerate() {
            origin.check(&format!("{key}.cors[{index}]"), faults);
        }
        // A value that is no host has its own fault.
        let is_host = service::settings::host::check(&self.host).is_ok();
        let is_reachable = reach == Reach::Anywhere || self.is_loopback() || !is_host;
        faults.require(is_reachable, &host, NOT_LOOPBACK);
    }

    /// Returns whether the host is certainly loopback: an address of it, or `localhost`.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let address = self.host.parse::<IpAddr>();
        address.map_or(self.host == "localhost", |address| address.to_canonical().is_loopback())
    }
}

/// Advice for a listener without authentication at another address.
pub(crate) const NOT_LOOPBACK: &str =
    "must be loopback, such as 127.0.0.1, because this listener does not authenticate its callers";

/// Origin as a browser sends it: scheme, host, and a port that is not the scheme's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedOrigin(HeaderValue);

impl AllowedOrigin {
    /// Returns the value of the header `Origin`.
    #[must_use]
    pub fn header(&self) -> &HeaderValue {
        &self.0
    }
}

/// Text that is no origin. The text itself is never repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be an origin as browsers send it, such as https://example.org or http://localhost:3000: \
     in lower case, without a path, a wildcard, a user, or the usual port"
)]
pub struct WrongOrigin;

impl FromStr for AllowedOrigin {
    type Err = WrongOrigin;

    fn from_str(text: &str) -> Result<Self, WrongOrigin> {
        let uri: Uri = text.parse().map_err(|_| WrongOrigin)?;
        let (scheme, authority) = uri.scheme_str().zip(uri.authority()).ok_or(WrongOrigin)?;
        let usual = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return Err(WrongOrigin),
        };
        let host = match authority.port() {
            None => authority.host().to_owned(),
            Some(port) => format!("{}:{port}", authority.host()),
        };
        let is_right = text == format!("{scheme}://{host}")
            && !text.bytes().any(|byte| byte.is_ascii_uppercase() || byte == b'*')
            && authority.port_u16() != Some(usual)
            && authority.port().is_none_or(|port| port.as_str().parse::<u16>().is_ok())
            && service::settings::host::check(authority.host().trim_matches(['[', ']'])).is_ok();
        let header = HeaderValue::from_str(text).map_err(|_| WrongOrigin)?;
        is_right.then_some(Self(header)).ok_or(WrongOrigin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(listener: &Listener, reach: Reach) -> String {
        let mut faults = Faults::default();
        listener.check("admin", reach, &mut faults);
        faults.to_string()
    }

    #[test]
    fn a_listener_without_authentication_is_only_for_loopback() {
        for host in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "localhost"] {
            let listener = Listener { host: host.into(), ..Listener::default() };
            assert_eq!(faults(&listener, Reach::Loopback), "", "{host}");
        }
        for host in ["0.0.0.0", "::", "10.0.0.1", "my-host", "localhost.example.org"] {
            let listener = Listener { host: host.into(), ..Listener::default() };
            let said = faults(&listener, Reach::Loopback);
            assert!(said.starts_with("admin.host: must be loopback"), "{host}: {said}");
            assert_eq!(faults(&listener, Reach::Anywhere), "", "{host}");
        }
    }

    #[test]
    fn every_fault_names_its_key() {
        let listener = Listener {
            host: "http://localhost".into(),
            max_body_bytes: 0,
            cors: vec!["https://example.org".into(), "*".into()],
            ..Listener::default()
        };

        let said = faults(&listener, Reach::Loopback);

        let keys: Vec<_> = said.lines().filter_map(|line| line.split(": ").next()).collect();
        assert_eq!(keys, ["admin.host", "admin.max_body_bytes", "admin.cors[1]"], "{said}");
    }

    #[test]
    fn an_origin_is_what_a_browser_sends() {
        for right in ["https://example.org", "http://localhost:3000", "http://[::1]:3000"] {
            assert_eq!(right.parse::<AllowedOrigin>().unwrap().header(), right);
        }
        for wrong in [
            "",
            "*",
            "null",
            "example.org",
            "https://example.org/",
            "https://example.org/app",
            "https://example.org?a",
            "https://Example.org",
            "https://*.example.org",
            "https://example.org:443",
            "http://example.org:80",
            "https://example.org:",
            "https://example.org:99999",
            "ftp://example.org",
            "https://user:hunter2@example.org",
        ] {
            assert_eq!(wrong.parse::<AllowedOrigin>(), Err(WrongOrigin), "{wrong}");
        }
    }
}
