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
    Http(http::HttpSource),
}

/// Source of the pipeline.
pub enum Sources {
    /// The only one, without the cost of a merge for each message.
    One(OneSource),
    /// Several that are read as one.
    Merged(Box<Merged<OneSource>>),
}

impl Sources {
    /// Returns the sources that the settings ask for.
    pub fn of(
        mqtt: Option<mqtt::Source>,
        http: Option<http::HttpSource>,
        retry: Backoff,
        metrics: Metrics,
    ) -> Self {
        match (mqtt.map(OneSource::Mqtt), http.map(OneSource::Http)) {
            (Some(one), None) | (None, Some(one)) => Self::One(one),
            (mqtt, http) => {
                Self::Merged(Box::new(Merged::new(mqtt.into_iter().chain(http), retry, metrics)))
            }
        }
    }
}

impl pipeline::Source for Sources {
    async fn receive(&mut self) -> Result<Option<Delivery>, Error> {
        match self {
            Self::One(source) => source.receive().await,
            Self::Merged(sources) => sources.receive().await,
        }
    }

    async fn close(self) -> Result<(), Error> {
        match self {
            Self::One(source) => source.close().await,
            Self::Merged(sources) => sources.close().await,
        }
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
