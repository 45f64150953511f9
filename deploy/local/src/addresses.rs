//! Addresses of the running platform. This is the one place that lists them.

use e2e::redis::Redis;

use crate::args::Args;
use crate::env::{Destination, LocalEnv};

/// Address that users of the platform need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    /// Name of the part that listens there.
    pub name: &'static str,
    /// URL, or a list of URLs.
    pub url: String,
    /// Further words; may be empty.
    pub note: String,
}

impl Address {
    fn new(name: &'static str, url: String, note: impl Into<String>) -> Self {
        Self { name, url, note: note.into() }
    }

    /// Formats a line of at most 79 characters, if the words are short.
    pub(crate) fn line(&self) -> String {
        let note = if self.note.is_empty() { String::new() } else { format!("  ({})", self.note) };
        format!("{:<10}{}{note}", self.name, self.url)
    }
}

/// Returns all addresses, in the order in which they are shown.
pub(crate) fn of(args: &Args, env: &LocalEnv) -> Vec<Address> {
    let page = format!("http://{}", env.page.address());
    let mut addresses = vec![
        Address::new("Live", page, "state, messages, dead letters"),
        Address::new("HTTP", format!("{}/ingest", env.ingest), "POST"),
    ];
    if let Destination::Engine(engine) = &env.destination {
        addresses.push(Address::new("Query", format!("{}/data", engine.query_url()), "GET"));
        addresses.push(Address::new("Rows", engine.postgres_url(), "PostgreSQL"));
    }
    if let Some(broker) = &env.servers.broker {
        let url = format!("mqtt://127.0.0.1:{}", args.mqtt_port);
        addresses.push(Address::new("MQTT", url, broker.name()));
    }
    let words = "Pub/Sub, Firestore, BigQuery, Cloud Storage";
    addresses.push(Address::new("Cloud", env.servers.server.url(), words));
    let services: Vec<_> = env
        .hosted()
        .map(|service| format!("http://{} {:<12}", service.hosted.address(), service.name))
        .collect();
    for (index, pair) in services.chunks(2).enumerate() {
        let name = if index == 0 { "Services" } else { "" };
        addresses.push(Address::new(name, pair.join("  ").trim_end().to_owned(), ""));
    }
    addresses.push(cache(env.servers.redis.as_ref()));
    addresses
}

fn cache(redis: Option<&Redis>) -> Address {
    match redis {
        Some(redis) => Address::new("Cache", format!("memory, {}, Firestore", redis.url()), ""),
        None => {
            Address::new("Cache", "memory, Firestore".to_owned(), "no redis-server on the PATH")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_name_the_url_and_the_words() {
        let words = "Pub/Sub, Firestore, BigQuery, Cloud Storage";
        let cloud = Address::new("Cloud", "http://127.0.0.1:8085".to_owned(), words).line();
        let alone = Address::new("", "http://127.0.0.1:8081 enrich".to_owned(), "").line();

        assert_eq!(cloud, format!("Cloud     http://127.0.0.1:8085  ({words})"));
        assert!(cloud.len() <= 79, "{cloud}");
        assert_eq!(alone, "          http://127.0.0.1:8081 enrich");
    }
}
