//! Checks of the routes from HTTP.

use std::collections::BTreeMap;

use message::OriginKind;
use service::Faults;

use crate::config::Settings;

/// Reports the faults that only routes from HTTP can have.
pub(super) fn check(settings: &Settings, faults: &mut Faults) {
    let mut names: BTreeMap<&str, &str> = BTreeMap::new();
    let routes = settings.routes.iter();
    for (name, route) in routes.filter(|(_, route)| route.source.kind() == OriginKind::Http) {
        let key = |of: &str| format!("routes.{name}.{of}");
        let source = &route.source;
        let right = "a route has one source: leave out mqtt_topic, or http_source";
        faults.require(source.mqtt_topic.text().is_empty(), &key("source.mqtt_topic"), right);
        let right = "only for mqtt_topic: leave it out";
        faults.require(source.qos == 0, &key("source.qos"), right);
        faults.require(source.shared_group.is_none(), &key("source.shared_group"), right);
        let right = "requests over HTTP have no order: leave it out";
        faults.require(route.ordering_key.is_none(), &key("ordering_key"), right);
        let Ok(filter) = source.filter() else { continue };
        if let Some(first) = names.insert(filter.as_subscribed(), name) {
            let right = format!("takes the same sources as routes.{first}: separate them");
            faults.add(&key("source.http_source"), right);
        }
    }
    let is_known = !faults.is_unreadable("http_ingest") && !faults.is_unreadable("routes");
    match (settings.http_ingest.is_some(), names.is_empty()) {
        (false, false) if is_known => {
            faults.add("http_ingest", "required, because a route has an http_source");
        }
        (true, true) if is_known => {
            let right = "no route has an http_source: add one, such as \"{device_id}\"";
            faults.add("http_ingest", right);
        }
        _ => {} // Right, or not known.
    }
}
