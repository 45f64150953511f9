//! What each route promises, in words.

use service::Health;
use tokio::sync::watch;
use tracing::info;

use crate::config::{Protocol, Settings};
use crate::mqtt::{Grants, humantime};
use crate::routes::Routes;

/// Tells the guarantees in `/status`, and again whenever the broker grants something else.
pub async fn follow(
    settings: Settings,
    unchecked: bool,
    mut grants: watch::Receiver<Grants>,
    health: Health,
) {
    let mut last = Vec::new();
    loop {
        let granted = grants.borrow_and_update().clone();
        let lines = of(&settings, unchecked, &granted);
        lines.iter().filter(|line| !last.contains(*line)).for_each(|line| info!("{line}"));
        health.tell("guarantees", lines.clone());
        let filters = Routes::new(&settings.routes).filters();
        let warnings: Vec<_> = granted
            .values()
            .flat_map(|granted| granted.warnings(&settings.mqtt, &filters))
            .collect();
        health.tell("broker", serde_json::json!({ "granted": granted, "warnings": warnings }));
        last = lines;
        if grants.changed().await.is_err() {
            return;
        }
    }
}

/// One line for each route, and one for all; `unchecked` when we may not see who listens to a topic.
/// `granted` is what the broker granted, as far as is known.
#[must_use]
pub fn of(settings: &Settings, unchecked: bool, granted: &Grants) -> Vec<String> {
    let filters = Routes::new(&settings.routes).filters();
    let short = |filter: &str| granted.values().find_map(|one| one.short.get(filter));
    let mut lines: Vec<_> = settings
        .routes
        .iter()
        .zip(&filters)
        .map(|((name, route), filter)| {
            let quality = match (route.source.qos, short(&filter.filter)) {
                (_, Some(why)) => format!("may be lost: {why}"),
                (0, None) => "QoS 0: may be lost before it is published".to_owned(),
                (1, None) => at_least_once(settings, granted),
                (_, None) => {
                    format!("{} (QoS 2 is taken as QoS 1)", at_least_once(settings, granted))
                }
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

fn at_least_once(settings: &Settings, granted: &Grants) -> String {
    let asked = days(settings.mqtt.session_expiry);
    if settings.mqtt.protocol == Protocol::V4 {
        return "at least once; the broker keeps our session as its settings say".into();
    }
    match granted.values().filter_map(|one| one.short_expiry(&settings.mqtt)).min() {
        None => format!("at least once; the broker keeps our session for {asked}"),
        Some(granted) => format!(
            "at least once while we are away for less than {}: the broker keeps our session no longer \
             ({asked} were asked for)",
            humantime(granted)
        ),
    }
}

fn days(duration: std::time::Duration) -> String {
    format!("{:.1} days", duration.as_secs_f64() / 86_400.0)
}
