//! Sources that the pipeline reads as one.

use pipeline::backoff::Backoff;
use pipeline::{Delivery, Error, Merged, Metrics};
use tokio::sync::watch;

use crate::mqtt::Grants;
use crate::{http, mqtt};

/// One of the sources.
pub enum OneSource {
    /// Broker.
    Mqtt(mqtt::Source),
    /// Clients over HTTP.
    Http(http::Source),
}

impl OneSource {
    /// Reads those sources as one that the settings ask for.
    pub fn merge(
        mqtt: Option<mqtt::Source>,
        http: Option<http::Source>,
        retry: Backoff,
        metrics: Metrics,
    ) -> Merged<Self> {
        let sources = mqtt.map(Self::Mqtt).into_iter().chain(http.map(Self::Http));
        Merged::new(sources, retry, metrics)
    }
}

/// Returns the grants of the broker. Without one, the sender is gone at once, and nothing is ever
/// granted.
#[must_use]
pub fn grants(mqtt: Option<&mqtt::Source>) -> watch::Receiver<Grants> {
    mqtt.map_or_else(|| watch::channel(Grants::new()).1, mqtt::Source::grants)
}

impl pipeline::Source for OneSource {
    async fn receive(&mut self) -> Result<Option<Delivery>, Error> {
        match self {
            Self::Mqtt(source) => source.receive().await,
            Self::Http(source) => source.receive().await,
        }
    }

    async fn close(self) -> Result<(), Error> {
        match self {
            Self::Mqtt(source) => source.close().await,
            Self::Http(source) => source.close().await,
        }
    }
}
