//! Settings of ingest over HTTP and gRPC.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service::Faults;
use service::memory::Share;
use service::settings::Parsed;
use web::Listener;
use web::auth::settings::Auth;
use web::settings::AllowedOrigin;

/// Maximum memory of the items of one request beyond the bytes of its body: 1 KiB for each of 1000.
const MAX_OVERHEAD_BYTES: usize = 1024 * 1024;
/// Maximum bytes of a stream of gRPC that its client has sent, and nobody has read.
const UNREAD_BYTES: u64 = 64 * 1024;

/// Port that takes messages over HTTP, with `POST /ingest`, and over gRPC.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct HttpIngest {
    /// Host to listen on. The default is loopback: without authentication, no other address is
    /// allowed.
    pub host: String,
    /// Port to listen on; 0 takes a free one, which `/status` shows.
    pub port: u16,
    /// Maximum size of a request's body in bytes, also after decompression, and of a message of
    /// gRPC; 1 to 256 MiB. Larger ones are refused with 413.
    pub max_body_bytes: usize,
    /// Origins whose pages may call this port from a browser, such as `https://example.org`.
    pub cors: Vec<Parsed<AllowedOrigin>>,
    /// Credentials that callers need, with the scope `ingest`. Without any, nobody is asked.
    pub auth: Auth,
    /// Maximum time from the arrival of a body to the answer; 2s to 1h, and at most `grace_period`.
    /// A message that is not published by then is answered with 503. Attempts to publish end before
    /// it, whatever `pipeline.attempt_timeout` is.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub timeout: Duration,
    /// Maximum number of requests that wait for their answer; 1 to 100,000. Further ones are
    /// refused with 429, before their body is read. There may be as many streams of gRPC.
    pub max_waiting: usize,
    /// Maximum bytes of the bodies of those requests; `max_body_bytes` + 1 MiB to 64 GiB. A
    /// compressed body counts as `max_body_bytes`, and each item as 1 KiB more than its bytes. Items
    /// of streams count, too.
    pub max_waiting_bytes: usize,
}

impl Default for HttpIngest {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".into(),
            port: 8088,
            max_body_bytes: 1024 * 1024,
            cors: Vec::new(),
            auth: Auth::default(),
            timeout: Duration::from_secs(10),
            max_waiting: 256,
            max_waiting_bytes: 16 * 1024 * 1024,
        }
    }
}

impl HttpIngest {
    /// Section of these settings.
    pub const SECTION: &str = "http_ingest";
    /// Section of the credentials.
    pub const AUTH: &str = "http_ingest.auth";

    /// Returns the listener of the port.
    #[must_use]
    pub fn listener(&self) -> Listener {
        Listener {
            host: self.host.clone(),
            port: self.port,
            max_body_bytes: self.max_body_bytes,
            cors: self.cors.clone(),
        }
    }

    pub(super) fn check(&self, grace_period: Duration, faults: &mut Faults) {
        self.listener().check(Self::SECTION, self.auth.reach(), faults);
        self.auth.check(Self::AUTH, faults);
        // A lease below two seconds is too short for an attempt and the hold before a nack.
        let range = Duration::from_secs(2)..=Duration::from_secs(3600);
        let is_in_range = range.contains(&self.timeout);
        faults.duration("http_ingest.timeout", self.timeout, range);
        if is_in_range {
            let right =
                "must be at most grace_period: requests under way are answered in that time";
            faults.require(self.timeout <= grace_period, "http_ingest.timeout", right);
        }
        faults.range("http_ingest.max_waiting", self.max_waiting, 1..=100_000);
        let least = self.max_body_bytes.saturating_add(MAX_OVERHEAD_BYTES);
        faults.range("http_ingest.max_waiting_bytes", self.max_waiting_bytes, least..=64 << 30);
    }

    /// Returns the memory of the requests that wait. A message is in memory as it came, in its
    /// envelope, and in up to two requests.
    pub(super) fn memory(&self) -> [Share; 2] {
        [
            Share::of_size("http_ingest.max_waiting_bytes", self.max_waiting_bytes, 400),
            Share::of_count("http_ingest.max_waiting", self.max_waiting, UNREAD_BYTES),
        ]
    }
}
