//! Which letters are meant.

use anyhow::Context as _;
use clap::{Arg, ArgMatches};
use pipeline::Message;
use pipeline::message::attribute::DEVICE_ID;
use pipeline::timestamp::parse_rfc3339;
use time::OffsetDateTime;

/// Letters of one service, by reason, device and time.
#[derive(Debug, Default)]
pub(super) struct Filter {
    service: String,
    reason: Option<String>,
    device: Option<String>,
    since: Option<OffsetDateTime>,
    until: Option<OffsetDateTime>,
}

/// Its options.
pub(super) fn arguments() -> [Arg; 4] {
    let option = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    [
        option("reason", "CODE", "Only letters of this reason, such as row_type_mismatch"),
        option("device", "ID", "Only letters of this device"),
        option(
            "since",
            "TIME",
            "Only letters first seen then or later, such as 2025-06-15T10:00:00Z",
        ),
        option("until", "TIME", "Only letters first seen before"),
    ]
}

impl Filter {
    pub(super) fn of(given: &ArgMatches, service: &str) -> anyhow::Result<Self> {
        // `show` has none of these.
        let text = |name: &str| given.try_get_one::<String>(name).ok().flatten().cloned();
        let time = |name: &str| {
            let parse = |text: String| {
                parse_rfc3339(&text)
                    .with_context(|| format!("--{name}: must be like 2025-06-15T10:00:00Z"))
            };
            text(name).map(parse).transpose()
        };
        Ok(Self {
            service: service.to_owned(),
            reason: text("reason"),
            device: text("device"),
            since: time("since")?,
            until: time("until")?,
        })
    }

    pub(super) fn takes(&self, letter: &Message) -> bool {
        let is = |name: &str, wanted: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| letter.attributes.get(name) == Some(wanted))
        };
        let seen = first_seen(letter);
        letter.attributes.get("dl_service") == Some(&self.service)
            && is("dl_reason", &self.reason)
            && is(DEVICE_ID, &self.device)
            && self.since.is_none_or(|since| seen >= since)
            && self.until.is_none_or(|until| seen < until)
    }
}

/// When the service first saw the message.
pub(super) fn first_seen(letter: &Message) -> OffsetDateTime {
    let told = letter.attributes.get("dl_first_seen");
    let told = told.and_then(|text| parse_rfc3339(text));
    told.unwrap_or(letter.publish_time)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn each_condition_counts() {
        let letter = Message::new("x")
            .with_attribute("dl_service", "bigqueries")
            .with_attribute("dl_reason", "row_type_mismatch")
            .with_attribute("device_id", "d1")
            .with_attribute("dl_first_seen", "2025-06-15T10:00:00Z");
        let all = || Filter { service: "bigqueries".into(), ..Filter::default() };

        assert!(all().takes(&letter));
        assert!(!Filter { service: "enrich".into(), ..all() }.takes(&letter));
        assert!(!Filter { reason: Some("no_route".into()), ..all() }.takes(&letter));
        assert!(Filter { device: Some("d1".into()), ..all() }.takes(&letter));
        assert!(!Filter { device: Some("d2".into()), ..all() }.takes(&letter));
        let at = datetime!(2025-06-15 10:00 UTC);
        assert!(Filter { since: Some(at), ..all() }.takes(&letter));
        assert!(!Filter { until: Some(at), ..all() }.takes(&letter));
    }
}
