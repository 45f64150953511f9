//! What each route promises, in words.

use crate::config::{Protocol, Settings};

/// One line for each route, and one for all; `unchecked` when we may not see who listens to a topic.
#[must_use]
pub fn of(settings: &Settings, unchecked: bool) -> Vec<String> {
    let mut lines: Vec<_> = settings
        .routes
        .iter()
        .map(|(name, route)| {
            let quality = match route.source.qos {
                0 => "QoS 0: may be lost before it is published".to_owned(),
                1 => at_least_once(settings),
                _ => format!("{} (QoS 2 is taken as QoS 1)", at_least_once(settings)),
            };
            let order = match (&route.ordering_key, &route.source.shared_group) {
                (Some(key), _) => format!("; in order by {key}"),
                (None, Some(group)) => format!("; shared by group {group}, in no order"),
                (None, None) => String::new(),
            };
            let topic = &route.source.mqtt_topic;
            format!("route {name}: {topic} -> {}: {quality}{order}", route.destination.route_name)
        })
        .collect();
    let largest = settings.mqtt.max_packet_bytes;
    lines.push(match settings.mqtt.protocol {
        Protocol::V5 => format!("packets above {largest} bytes are discarded by the broker"),
        Protocol::V4 => format!("a packet above {largest} bytes stops intake until it is gone"),
    });
    if let Some(graves) = &settings.dead_letters {
        lines.push(graves.guarantee());
    }
    if unchecked {
        lines.push(
            "unchecked: whether somebody sees all messages of the topics; the log says why".into(),
        );
    }
    lines
}

fn at_least_once(settings: &Settings) -> String {
    let days = settings.mqtt.session_expiry.as_secs_f64() / 86_400.0;
    match settings.mqtt.protocol {
        Protocol::V5 => format!("at least once; the broker keeps our session for {days:.1} days"),
        Protocol::V4 => "at least once; the broker keeps our session as its settings say".into(),
    }
}
