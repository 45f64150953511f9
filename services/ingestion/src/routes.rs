//! Routes: filters of topics and of source ids, with captures. A look-up walks through the levels of
//! the address.

use std::collections::{BTreeMap, HashMap};

use message::{Origin, OriginKind};
use service::{Faults, WrongSettings};

use crate::config::{Protocol, RouteSettings, Settings};
use crate::filter::{Filter, Template};

mod http;

/// Filter as the service subscribes to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Filter in which `+` replaces captures, with its group if it is shared.
    pub filter: String,
    /// Requested QoS, 0 or 1.
    pub qos: u8,
    /// True if several connections may share it.
    pub is_shared: bool,
}

/// All routes. Those of each kind of source are in a tree of the levels of their filters.
#[derive(Debug, Default)]
pub struct Routes {
    mqtt: Node,
    http: Node,
    entries: Vec<Entry>,
}

/// Route of the settings, with its parsed filter.
#[derive(Debug)]
pub struct Entry {
    /// Name of the route in the settings.
    pub name: String,
    /// Filter of the route.
    pub filter: Filter,
    /// Template of the ordering key.
    pub ordering_key: Option<Template>,
    /// Templates of additional attributes, by their names.
    pub attributes: BTreeMap<String, Template>,
    /// Settings of the route.
    pub route: RouteSettings,
}

impl Entry {
    /// Returns the device that sends from an address. From MQTT it is the capture `device_id`, else
    /// the first `+`. Over HTTP it is that capture, else the whole source id.
    #[must_use]
    pub fn device_id<'a>(&self, address: &'a str) -> Option<&'a str> {
        match self.route.source.kind() {
            OriginKind::Mqtt => self.filter.device_id(address),
            OriginKind::Http => self.filter.captured_device(address).or(Some(address)),
        }
    }
}

#[derive(Debug, Default)]
struct Node {
    children: HashMap<String, Node>,
    any: Option<Box<Node>>,
    rest: Option<usize>,
    end: Option<usize>,
}

impl Routes {
    /// Builds the tree of all routes.
    ///
    /// # Errors
    /// A filter is wrong.
    pub fn new(routes: &BTreeMap<String, RouteSettings>) -> Result<Self, WrongSettings> {
        let mut all = Self::default();
        for (name, route) in routes {
            let filter = route.source.filter();
            let filter = filter.map_err(|wrong| WrongSettings(format!("routes.{name}.{wrong}")))?;
            let index = all.entries.len();
            let mut node = match route.source.kind() {
                OriginKind::Mqtt => &mut all.mqtt,
                OriginKind::Http => &mut all.http,
            };
            let mut is_rest = false;
            for level in filter.levels() {
                match level {
                    "#" => is_rest = true,
                    "+" => node = node.any.get_or_insert_default(),
                    level => node = node.children.entry(level.to_owned()).or_default(),
                }
            }
            let place = if is_rest { &mut node.rest } else { &mut node.end };
            place.get_or_insert(index);
            let attributes = route.attributes.iter();
            let attributes = attributes.map(|(name, text)| (name.clone(), filter.template(text)));
            all.entries.push(Entry {
                name: name.clone(),
                filter: filter.clone(),
                ordering_key: route.ordering_key.as_deref().map(|text| filter.template(text)),
                attributes: attributes.collect(),
                route: route.clone(),
            });
        }
        Ok(all)
    }

    /// Returns the route of messages of this origin. If several filters match, the most specific one
    /// wins, compared level by level.
    #[must_use]
    pub fn find(&self, origin: Origin<'_>) -> Option<&Entry> {
        match origin.kind {
            // Wildcards at the start do not match topics such as `$SYS` [MQTT-4.7.2-1].
            OriginKind::Mqtt => self.find_in(&self.mqtt, origin, !origin.address.starts_with('$')),
            OriginKind::Http => self.find_in(&self.http, origin, true),
        }
    }

    fn find_in(&self, root: &Node, origin: Origin<'_>, may_start_wild: bool) -> Option<&Entry> {
        let levels: Vec<_> = origin.address.split('/').collect();
        find(root, &levels, may_start_wild).map(|index| &self.entries[index])
    }

    /// Returns all routes, in the order of their names.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Returns the routes of messages from MQTT, in the order of their names.
    pub fn of_mqtt(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.route.source.kind() == OriginKind::Mqtt)
    }

    /// Returns the filters to subscribe to, one for each route from MQTT.
    #[must_use]
    pub fn filters(&self) -> Vec<Subscription> {
        let subscription = |entry: &Entry| {
            let (filter, group) = (entry.filter.as_subscribed(), &entry.route.source.shared_group);
            Subscription {
                filter: match group {
                    None => filter.to_owned(),
                    Some(group) => format!("$share/{group}/{filter}"),
                },
                qos: entry.route.source.qos.min(1),
                is_shared: group.is_some(),
            }
        };
        self.of_mqtt().map(subscription).collect()
    }

    /// Returns whether any route has an ordering key.
    #[must_use]
    pub fn has_ordering(&self) -> bool {
        self.entries.iter().any(|entry| entry.ordering_key.is_some())
    }
}

fn find(node: &Node, levels: &[&str], may_be_wild: bool) -> Option<usize> {
    // `a/#` also matches `a`.
    let rest = node.rest.filter(|_| may_be_wild);
    let Some((level, deeper)) = levels.split_first() else { return node.end.or(rest) };
    let exact = node.children.get(*level).and_then(|child| find(child, deeper, true));
    let any = || node.any.as_ref().filter(|_| may_be_wild);
    exact.or_else(|| any().and_then(|child| find(child, deeper, true))).or(rest)
}

/// Reports all faults of routes and producers.
pub fn check(settings: &Settings, faults: &mut Faults) {
    faults.require(!settings.routes.is_empty(), "routes", "required: at least one route");
    let mut filters: Vec<(&str, &Filter, bool)> = Vec::new();
    for (name, route) in &settings.routes {
        let key = format!("routes.{name}");
        check_route(&key, route, settings, faults);
        let filter_key = format!("{key}.source.{}", route.source.key());
        let filter = route.source.text().check(&filter_key, faults);
        if route.source.kind() == OriginKind::Mqtt {
            filters.extend(filter.map(|filter| (name.as_str(), filter, route.allow_overlap)));
        }
    }
    http::check(settings, faults);
    for (index, (name, filter, allowed)) in filters.iter().enumerate() {
        for (other_name, other, other_allowed) in &filters[index + 1..] {
            if filter.overlaps(other) && !(*allowed && *other_allowed) {
                faults.add(
                    &format!("routes.{name}.source.mqtt_topic"),
                    format!(
                        "overlaps with routes.{other_name}: the broker may deliver a message twice; \
                         separate them, or set allow_overlap: true on both"
                    ),
                );
            }
        }
    }
    let has_shared = settings.routes.values().any(|route| route.source.shared_group.is_some())
        || !settings.has_mqtt()
        || faults.is_unreadable("routes");
    let right = "only shared subscriptions use more than one: set shared_group on a route, or 1";
    faults.require(settings.mqtt.connections == 1 || has_shared, "mqtt.connections", right);
    for (name, producer) in &settings.producers {
        let key = format!("producers.{name}");
        producer.topic_id.check_required(&format!("{key}.topic_id"), "required", faults);
        let is_used = settings.routes.values().any(|route| route.destination.route_name == *name)
            || faults.is_unreadable("routes");
        faults.require(is_used, &key, "no route leads here: remove it, or add a route");
    }
}

fn check_route(key: &str, route: &RouteSettings, settings: &Settings, faults: &mut Faults) {
    let qos = route.source.qos;
    faults.require(qos <= 2, &format!("{key}.source.qos"), format!("must be 0, 1 or 2, is {qos}"));
    let destination = &route.destination.route_name;
    if destination.is_empty() {
        faults.add(&format!("{key}.destination.route_name"), "required: a key of producers");
    } else if !settings.producers.contains_key(destination) && !faults.is_unreadable("producers") {
        let known: Vec<_> = settings.producers.keys().map(String::as_str).collect();
        faults.add(
            &format!("{key}.destination.route_name"),
            format!("`{destination}` is not a key of producers, which has: {}", known.join(", ")),
        );
    }
    if let (Some(min), Some(max)) = (route.min_payload_bytes, route.max_payload_bytes) {
        let right = format!("must be at least min_payload_bytes ({min}), is {max}");
        faults.require(min <= max, &format!("{key}.max_payload_bytes"), right);
    }
    check_sharing(key, route, settings, faults);
    let check_captures = |at: &str, template: &str, faults: &mut Faults| {
        // Captures of a wrong filter are unknown.
        let Ok(filter) = route.source.filter() else { return };
        if let Some(missing) = filter.missing_capture(template) {
            faults.add(at, format!("`{{{missing}}}` is not a capture of {}", route.source.key()));
        }
    };
    if let Some(template) = &route.ordering_key {
        check_captures(&format!("{key}.ordering_key"), template, faults);
    }
    for (name, template) in &route.attributes {
        let at = format!("{key}.attributes.{name}");
        let is_free = !message::attribute::is_reserved(name);
        faults.require(is_free, &at, "this name is reserved");
        check_captures(&at, template, faults);
    }
}

fn check_sharing(key: &str, route: &RouteSettings, settings: &Settings, faults: &mut Faults) {
    let Some(group) = &route.source.shared_group else { return };
    let key = format!("{key}.source.shared_group");
    let is_name = !group.is_empty() && !group.contains(['/', '+', '#']);
    faults.require(is_name, &key, "must be a name without `/`, `+` and `#`");
    let is_v5 = settings.mqtt.protocol == Protocol::V5;
    faults.require(is_v5, &key, "needs mqtt.protocol 5");
    let right = "a shared group keeps no order: leave it out, or ordering_key";
    faults.require(route.ordering_key.is_none(), &key, right);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(filters: &[&str]) -> Routes {
        let route = |filter: &&str| {
            let mut route = RouteSettings::default();
            route.source.mqtt_topic = (*filter).into();
            ((*filter).to_owned(), route)
        };
        Routes::new(&filters.iter().map(route).collect()).unwrap()
    }

    #[test]
    fn the_most_specific_filter_wins() {
        let routes = routes(&["a/b", "a/+", "a/#", "#", "x/{id}/up"]);
        let found = |topic| routes.find(Origin::mqtt(topic)).map(|entry| entry.name.as_str());

        assert_eq!(found("a/b"), Some("a/b"));
        assert_eq!(found("a/c"), Some("a/+"));
        assert_eq!(found("a/c/d"), Some("a/#"));
        assert_eq!(found("a"), Some("a/#"));
        assert_eq!(found("b"), Some("#"));
        assert_eq!(found("x/7/up"), Some("x/{id}/up"));
        assert_eq!(found("$SYS/load"), None);
    }

    #[test]
    fn a_wrong_filter_is_named_and_its_route_is_not_left_out() {
        let mut wrong = RouteSettings::default();
        wrong.source.mqtt_topic = "a/#/b".into();

        let why = Routes::new(&BTreeMap::from([("r".to_owned(), wrong)])).unwrap_err();

        assert_eq!(why.to_string(), "routes.r.source.mqtt_topic: `#` must be the last level");
    }

    #[test]
    fn a_topic_without_a_route_is_not_found() {
        let routes = routes(&["a/+/c"]);

        for topic in ["a/b", "a/b/d", "a/b/c/d", "", "A/b/c"] {
            assert!(routes.find(Origin::mqtt(topic)).is_none(), "{topic}");
        }
    }
}
