//! Guarantees of each route, in words.

pub(crate) mod strict;

use std::sync::Arc;

use service::Health;
use tokio::sync::watch;
use tracing::info;

use crate::config::{Protocol, Settings};
use crate::mqtt::{Grants, humantime};
use crate::routes::{Entry, Routes};

/// Publishes the guarantees in `/status`. It updates them whenever the broker grants something
/// else.
pub async fn follow(
    settings: Settings,
    routes: Arc<Routes>,
    unchecked: bool,
    mut grants: watch::Receiver<Grants>,
    health: Health,
) {
    let mut last = Vec::new();
    loop {
        let granted = grants.borrow_and_update().clone();
        let lines = of(&settings, &routes, unchecked, &granted);
        lines.iter().filter(|line| !last.contains(*line)).for_each(|line| info!("{line}"));
        health.tell("guarantees", lines.clone());
        let filters = routes.filters();
        if settings.has_mqtt() {
            let warnings: Vec<_> = granted
                .values()
                .flat_map(|granted| granted.warnings(&settings.mqtt, &filters))
                .collect();
            health.tell("broker", serde_json::json!({ "granted": granted, "warnings": warnings }));
        }
        last = lines;
        // An error means that the source has ended.
        if grants.changed().await.is_err() {
            return;
        }
    }
}

/// Returns one line for each route, and further lines for all of them.
///
/// `unchecked` means that we lack the permission to see who subscribes to a topic. `granted` is
/// what the broker has granted, as far as it is known.
#[must_use]
pub fn of(settings: &Settings, routes: &Routes, unchecked: bool, granted: &Grants) -> Vec<String> {
    let filters = routes.filters();
    let short = |filter: &str| granted.values().find_map(|one| one.short.get(filter));
    let mut lines: Vec<_> = routes
        .of_mqtt()
        .zip(&filters)
        .map(|(Entry { name, route, .. }, filter)| {
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
    lines.extend(routes.entries().iter().filter_map(over_http));
    let largest = settings.mqtt.max_packet_bytes;
    lines.extend(settings.has_mqtt().then(|| match settings.mqtt.protocol {
        Protocol::V5 => format!("packets above {largest} bytes are discarded by the broker"),
        Protocol::V4 => format!("a packet above {largest} bytes stops intake until it is gone"),
    }));
    if let Some(dead_letters) = &settings.dead_letters {
        lines.push(dead_letters.guarantee());
    }
    if unchecked {
        lines.push(
            "unchecked: whether somebody sees all messages of the topics; the log says why".into(),
        );
    }
    lines
}

/// Returns the line of a route from HTTP.
fn over_http(Entry { name, route, .. }: &Entry) -> Option<String> {
    let source = route.source.http_source.as_ref()?;
    let to = &route.destination.route_name;
    Some(format!("route {name}: http {source} -> {to}: at least once after an answer of 2xx"))
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::config::RouteSettings;
    use crate::mqtt::Negotiated;

    fn told(settings: &Settings, granted: &Grants) -> Vec<String> {
        of(settings, &Routes::new(&settings.routes).unwrap(), false, granted)
    }

    fn settings() -> Settings {
        let mut settings = Settings::default();
        for (name, topic, qos) in [("a", "a/{id}", 1), ("b", "b/+", 0), ("c", "c/+", 2)] {
            let mut route = RouteSettings::default();
            (route.source.mqtt_topic, route.source.qos) = (topic.into(), qos);
            settings.routes.insert(name.into(), route);
        }
        settings
    }

    #[test]
    fn a_route_promises_what_its_qos_and_the_session_can_keep() {
        let lines = told(&settings(), &Grants::new());

        assert!(lines[0].contains("at least once; the broker keeps our session for 7.0 days"));
        assert!(lines[1].contains("QoS 0: may be lost"), "{lines:?}");
        assert!(lines[2].contains("at least once") && lines[2].contains("taken as QoS 1"));
    }

    #[test]
    fn a_promise_ends_where_the_broker_grants_less() {
        let settings = settings();
        let kept = Negotiated {
            session_expiry: Some(settings.mqtt.session_expiry),
            ..Negotiated::default()
        };
        let short = Negotiated {
            session_expiry: Some(Duration::from_secs(60)),
            short: BTreeMap::from([("a/+".into(), "the broker grants QoS 0".into())]),
            ..Negotiated::default()
        };

        let all = told(&settings, &Grants::from([(0, kept.clone())]));
        let less = told(&settings, &Grants::from([(0, kept), (1, short)]));

        assert_eq!(all, told(&settings, &Grants::new()));
        assert!(less[0].contains("may be lost: the broker grants QoS 0"), "{less:?}");
        assert!(less[2].contains("while we are away for less than 1m"), "{less:?}");
    }

    #[tokio::test]
    async fn the_status_follows_what_the_broker_grants() {
        let (grants, receiver) = watch::channel(Grants::new());
        let health = Health::default();
        let routes = Arc::new(Routes::new(&settings().routes).unwrap());
        let following = tokio::spawn(follow(settings(), routes, false, receiver, health.clone()));
        let short =
            Negotiated { session_expiry: Some(Duration::from_secs(60)), ..Negotiated::default() };

        grants.send_replace(Grants::from([(0, short)]));
        drop(grants);
        following.await.unwrap();

        let report = health.report();
        assert_eq!(report["broker"]["granted"]["0"]["session_expiry"], "1m");
        let warning = report["broker"]["warnings"][0].as_str().unwrap();
        assert!(warning.contains("for 1m, not 7days"), "{warning}");
        assert!(report["guarantees"][0].as_str().unwrap().contains("less than 1m"), "{report}");
    }
}
