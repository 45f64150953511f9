//! Selection of dead letters.

use bytes::Bytes;
use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgMatches};
use message::Attributes;
use message::attribute::DEVICE_ID;
use message::timestamp::parse_rfc3339;
use message::{Envelope, Message};
use pipeline::Reason;
use service::tools::moment;
use time::OffsetDateTime;

use crate::dead_letters::restore;

/// Selects dead letters of one service or of all, by reason, device and time.
#[derive(Debug, Default)]
pub(super) struct Filter {
    service: Option<String>,
    reason: Option<String>,
    device: Option<String>,
    since: Option<OffsetDateTime>,
    until: Option<OffsetDateTime>,
}

/// Returns the option for one of a service's reasons.
pub(super) fn reason(reasons: impl IntoIterator<Item = Reason>) -> Arg {
    let codes = reasons.into_iter().map(Reason::as_str);
    Arg::new("reason")
        .long("reason")
        .value_name("CODE")
        .value_parser(PossibleValuesParser::new(codes))
        .help("Only letters of this reason")
}

/// Returns the options for a device and for times.
pub(super) fn arguments() -> [Arg; 3] {
    let device = Arg::new("device").long("device").value_name("ID").help(
        "Only letters of this device: by the attribute device_id, or by DeviceID in the enrichmentData of \
         an envelope",
    );
    [
        device,
        moment::option("since", "Only letters first seen then or later"),
        moment::option("until", "Only letters first seen before"),
    ]
}

impl Filter {
    /// Reads the options. `service` limits the selection to one service.
    pub(super) fn of(given: &ArgMatches, service: Option<&str>) -> Self {
        // Not every subcommand has all options.
        let text = |name: &str| given.try_get_one::<String>(name).ok().flatten().cloned();
        let time = |name: &str| given.try_get_one::<OffsetDateTime>(name).ok().flatten().copied();
        Self {
            service: service.map(str::to_owned),
            reason: text("reason"),
            device: text("device"),
            since: time("since"),
            until: time("until"),
        }
    }

    /// Returns true if the filter selects a dead letter.
    pub(super) fn takes(&self, letter: &Message) -> bool {
        let is = |name: &str, wanted: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| letter.attributes.get(name) == Some(wanted))
        };
        let seen = first_seen(letter);
        is("dl_service", &self.service)
            && is("dl_reason", &self.reason)
            && self.since.is_none_or(|since| seen >= since)
            && self.until.is_none_or(|until| seen < until)
            && (is(DEVICE_ID, &self.device) || self.device == enriched_device(letter))
    }
}

/// Returns the time when the service first saw the message.
pub(super) fn first_seen(letter: &Message) -> OffsetDateTime {
    let told = letter.attributes.get("dl_first_seen");
    let told = told.and_then(|text| parse_rfc3339(text));
    told.unwrap_or(letter.publish_time)
}

/// Returns the original data and attributes of a dead letter's message. If the dead letter does not
/// hold the whole message, returns the part that it holds.
pub(super) fn original(letter: &Message) -> (Bytes, Attributes) {
    let restored = restore(letter, letter.data.clone());
    restored.unwrap_or_else(|_cut| (letter.data.clone(), letter.attributes.clone()))
}

/// Returns the device of a dead letter, if it is known.
pub(super) fn device(letter: &Message) -> Option<String> {
    letter.attributes.get(DEVICE_ID).cloned().or_else(|| enriched_device(letter))
}

fn enriched_device(letter: &Message) -> Option<String> {
    let envelope = Envelope::read(&original(letter).0)?;
    envelope.enrichment.get("DeviceID")?.as_str().map(str::to_owned)
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
        let all = || Filter { service: Some("bigqueries".into()), ..Filter::default() };

        assert!(all().takes(&letter));
        assert!(Filter::default().takes(&letter), "of all services");
        assert!(!Filter { service: Some("enrich".into()), ..all() }.takes(&letter));
        assert!(!Filter { reason: Some("no_route".into()), ..all() }.takes(&letter));
        assert!(Filter { device: Some("d1".into()), ..all() }.takes(&letter));
        assert!(!Filter { device: Some("d2".into()), ..all() }.takes(&letter));
        let at = datetime!(2025-06-15 10:00 UTC);
        assert!(Filter { since: Some(at), ..all() }.takes(&letter));
        assert!(!Filter { until: Some(at), ..all() }.takes(&letter));
        let later = at + time::Duration::SECOND;
        assert!(Filter { until: Some(later), ..all() }.takes(&letter));
        assert!(!Filter { since: Some(later), ..all() }.takes(&letter));
    }

    #[test]
    fn each_option_is_read() {
        let reasons = [crate::tools::dead_letters::tests::reasons::NO_ROUTE];
        let command = clap::Command::new("list").arg(reason(reasons)).args(arguments());
        let given = |args: &str| {
            let matches = command.clone().no_binary_name(true);
            matches.try_get_matches_from(args.split_whitespace()).unwrap()
        };
        let all = "--reason no_route --device d1 --since 2025-06-15 --until 2025-06-16T10:00:00Z";

        let filter = Filter::of(&given(all), Some("enrich"));
        let none = Filter::of(&given(""), None);

        assert_eq!(filter.service.as_deref(), Some("enrich"));
        assert_eq!(filter.reason.as_deref(), Some("no_route"));
        assert_eq!(filter.device.as_deref(), Some("d1"));
        assert_eq!(filter.since, Some(datetime!(2025-06-15 0:00 UTC)));
        assert_eq!(filter.until, Some(datetime!(2025-06-16 10:00 UTC)));
        assert!(none.takes(&Message::new("x")));
    }

    #[test]
    fn a_command_without_an_option_has_no_condition_of_it() {
        let given = clap::Command::new("show").get_matches_from(["show"]);

        assert!(Filter::of(&given, None).takes(&Message::new("x")));
    }

    #[test]
    fn a_device_is_found_by_what_the_envelope_says() {
        let data = r#"{"id":"1","payload":"eA==","publishTime":"2025-06-15T10:00:00Z","enrichmentData":{"DeviceID":"d1"}}"#;
        let letter = Message::new(data);
        let of = |device: &str| Filter { device: Some(device.into()), ..Filter::default() };

        assert!(of("d1").takes(&letter));
        assert!(!of("d2").takes(&letter));
        assert_eq!(device(&letter).as_deref(), Some("d1"));
        assert_eq!(device(&Message::new("raw")), None);
    }
}
