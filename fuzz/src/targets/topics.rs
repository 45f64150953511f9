//! Topic filters, topics, and templates that are filled from them.

use ingestion::config::RouteSettings;
use ingestion::filter::Filter;
use ingestion::routes::Routes;
use message::Origin;

use super::{Target, first_line, require};

pub(super) const TARGET: Target = Target {
    name: "topics",
    corpus: &[
        include_bytes!("../../corpus/topics/filters.txt"),
        include_bytes!("../../corpus/topics/wild.txt"),
        include_bytes!("../../corpus/topics/system.txt"),
    ],
    dictionary: &[
        "/",
        "//",
        "+",
        "#",
        "/#",
        "{a}",
        "{device_id}",
        "$SYS",
        "$share/g/",
        "\n",
        "a",
        "b",
    ],
    weight: 1,
    check,
};

/// Checks a topic, which is the first line, with a template in the second line and filters in the
/// others.
fn check(input: &[u8]) -> Result<(), String> {
    let input = String::from_utf8_lossy(input);
    let (topic, rest) = first_line(&input);
    let (template, rest) = first_line(rest);
    let is_filter = |text: &&str| text.parse::<Filter>().is_ok();
    let texts: Vec<_> = rest.split('\n').filter(is_filter).collect();
    let filters: Vec<_> = texts.iter().filter_map(|text| text.parse::<Filter>().ok()).collect();
    let settings = texts.iter().enumerate().map(|(index, text)| {
        let mut route = RouteSettings::default();
        route.source.mqtt_topic = (*text).into();
        (index.to_string(), route)
    });

    let routes = Routes::new(&settings.collect()).map_err(|wrong| wrong.to_string())?;
    let found = routes.find(Origin::mqtt(topic));

    let is_matched = filters.iter().any(|filter| matches(filter.as_subscribed(), topic));
    require(found.is_some() == is_matched, || format!("found {found:?}"))?;
    if let Some(entry) = found {
        let is_right = matches(entry.filter.as_subscribed(), topic);
        require(is_right, || format!("found {:?}, which does not match", entry.filter))?;
        let filled = entry.filter.template(template).fill(topic);
        let captured: usize = entry.filter.captured(topic).map(|(_, level)| level.len()).sum();
        let most = template.len() * (captured + 1);
        require(filled.len() <= most, || format!("filled with {filled}"))?;
    }
    for one in filters.iter().take(20) {
        for other in filters.iter().take(20) {
            let is_same = one.overlaps(other) == other.overlaps(one);
            require(is_same, || format!("{one:?} and {other:?} overlap one way"))?;
            let both = matches(one.as_subscribed(), topic) && matches(other.as_subscribed(), topic);
            let is_known = !both || one.overlaps(other);
            require(is_known, || format!("{one:?} and {other:?} share {topic}"))?;
        }
    }
    Ok(())
}

/// Returns true if a filter matches a topic, as in section 4.7 of MQTT 5.
fn matches(filter: &str, topic: &str) -> bool {
    let (mut filter, mut topic) = (filter.split('/').enumerate(), topic.split('/'));
    loop {
        match (filter.next(), topic.next()) {
            (Some((0, "#" | "+")), Some(name)) if name.starts_with('$') => return false,
            (Some((_, "#")), _) | (None, None) => return true,
            (Some((_, "+")), Some(_)) => {}
            (Some((_, level)), Some(name)) if level == name => {}
            _ => return false,
        }
    }
}
