//! Limits that a broker granted, compared with those requested.

use std::collections::BTreeMap;
use std::time::Duration;

use rumqttc::v5::mqttbytes::v5::ConnAckProperties;
use serde::Serialize;

use crate::config::{Mqtt, Protocol};
use crate::routes::Subscription;

/// Limits of a connection, as the broker's CONNACK and SUBACKs state them. A missing value was
/// granted as requested. With MQTT 3.1.1 it is unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Negotiated {
    /// Time for which the broker keeps the session.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub session_expiry: Option<Duration>,
    /// Keep-alive that the broker requests; zero for none.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<Duration>,
    /// Maximum number of QoS 1 messages that we may send at once. Ingestion sends none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_maximum: Option<u16>,
    /// Maximum size of a packet that we may send.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_packet_bytes: Option<u32>,
    /// Highest QoS that the broker supports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_qos: Option<u8>,
    /// True if the broker does not support wildcards in subscriptions.
    pub lacks_wildcards: bool,
    /// True if the broker does not support shared subscriptions.
    pub lacks_shared: bool,
    /// Client id that the broker assigned in place of ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assigned_client_id: Option<String>,
    /// Filters that were refused or granted with a lower QoS than requested, each with the reason.
    pub short: BTreeMap<String, String>,
}

impl From<ConnAckProperties> for Negotiated {
    fn from(given: ConnAckProperties) -> Self {
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        Self {
            session_expiry: given.session_expiry_interval.map(seconds),
            keep_alive: given.server_keep_alive.map(|given| seconds(given.into())),
            receive_maximum: given.receive_max,
            max_packet_bytes: given.max_packet_size,
            max_qos: given.max_qos,
            lacks_wildcards: given.wildcard_subscription_available == Some(0),
            lacks_shared: given.shared_subscription_available == Some(0),
            assigned_client_id: given.assigned_client_identifier,
            short: BTreeMap::new(),
        }
    }
}

impl Negotiated {
    /// Returns the time for which the broker keeps the session, if it is shorter than requested.
    #[must_use]
    pub fn short_expiry(&self, settings: &Mqtt) -> Option<Duration> {
        self.session_expiry.filter(|granted| *granted < settings.session_expiry)
    }

    /// Returns the limits that are lower than requested, one sentence each.
    #[must_use]
    pub fn warnings(&self, settings: &Mqtt, filters: &[Subscription]) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(granted) = self.short_expiry(settings) {
            let asked = humantime(settings.session_expiry);
            let granted = humantime(granted);
            warnings.push(format!(
                "the broker keeps our session for {granted}, not {asked} (mqtt.session_expiry)"
            ));
        }
        if let Some(given) = &self.assigned_client_id {
            warnings.push(format!(
                "the broker calls us {given}: another connection will not find this session again"
            ));
        }
        let most = filters.iter().map(|filter| filter.qos).max().unwrap_or(0);
        if let Some(granted) = self.max_qos.filter(|granted| *granted < most) {
            warnings
                .push(format!("the broker has QoS {granted} at most, routes ask for QoS {most}"));
        }
        if self.lacks_wildcards && filters.iter().any(|filter| has_wildcard(&filter.filter)) {
            warnings
                .push("the broker has no subscriptions with wildcards, routes need them".into());
        }
        if self.lacks_shared && filters.iter().any(|filter| filter.is_shared) {
            warnings.push("the broker has no shared subscriptions, routes need them".into());
        }
        let short = self.short.iter();
        warnings.extend(short.map(|(filter, why)| format!("{filter}: {why}")));
        warnings
    }

    /// Returns the keep-alive time that both sides agreed on.
    #[must_use]
    pub fn keep_alive(&self, settings: &Mqtt) -> Duration {
        // Zero turns off the broker's check. Our own check stays.
        let granted = self.keep_alive.filter(|granted| !granted.is_zero());
        match settings.protocol {
            Protocol::V5 => granted.unwrap_or(settings.keep_alive),
            Protocol::V4 => settings.keep_alive,
        }
    }
}

fn has_wildcard(filter: &str) -> bool {
    filter.contains(['+', '#'])
}

/// Returns a duration in the form that settings use.
pub(crate) fn humantime(duration: Duration) -> String {
    humantime_serde::re::humantime::format_duration(duration).to_string()
}
