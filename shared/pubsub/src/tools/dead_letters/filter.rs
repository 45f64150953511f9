//! Selection of dead letters.

use bytes::Bytes;
use clap::Args;
use message::Attributes;
use message::attribute::DEVICE_ID;
use message::timestamp::parse_rfc3339;
use message::{Envelope, Message};
use service::tools::moment;
use time::OffsetDateTime;

use crate::dead_letters::restore;

/// Selects dead letters of one service or of all, by reason, device and time.
#[derive(Debug, Default, Args)]
pub(super) struct Filter {
    #[arg(skip)]
    service: Option<String>,
    /// Only letters of this reason.
    #[arg(long, value_name = "CODE")]
    reason: Option<String>,
    #[command(flatten)]
    conditions: Conditions,
}

/// Selects dead letters by device and time.
#[derive(Debug, Default, Args)]
pub(super) struct Conditions {
    /// Only letters of this device: by the attribute device_id, or by DeviceID in the
    /// enrichmentData of an envelope.
    #[arg(long, value_name = "ID")]
    device: Option<String>,
    /// Only letters first seen then or later: 1h (ago), 2026-11-20, or 2026-11-20T10:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = moment::parse)]
    since: Option<OffsetDateTime>,
    /// Only letters first seen before: 1h (ago), 2026-11-20, or 2026-11-20T10:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = moment::parse)]
    until: Option<OffsetDateTime>,
}

impl Filter {
    /// Limits the selection to one service.
    pub(super) fn of_service(self, service: &str) -> Self {
        Self { service: Some(service.to_owned()), ..self }
    }

    /// Selects dead letters of all services and reasons.
    pub(super) fn of_all(conditions: Conditions) -> Self {
        Self { conditions, ..Self::default() }
    }

    /// Returns true if the filter selects a dead letter.
    pub(super) fn takes(&self, dead_letter: &Message) -> bool {
        let is = |name: &str, wanted: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| dead_letter.attributes.get(name) == Some(wanted))
        };
        let Conditions { device, since, until } = &self.conditions;
        let seen = first_seen(dead_letter);
        is("dl_service", &self.service)
            && is("dl_reason", &self.reason)
            && since.is_none_or(|since| seen >= since)
            && until.is_none_or(|until| seen < until)
            && (is(DEVICE_ID, device) || *device == enriched_device(dead_letter))
    }
}

/// Returns the time when the service first saw the message.
pub(super) fn first_seen(dead_letter: &Message) -> OffsetDateTime {
    let told = dead_letter.attributes.get("dl_first_seen");
    let told = told.and_then(|text| parse_rfc3339(text));
    told.unwrap_or(dead_letter.publish_time)
}

/// Returns the original data and attributes of a dead letter's message. If the dead letter does not
/// hold the whole message, returns the part that it holds.
pub(super) fn original(dead_letter: &Message) -> (Bytes, Attributes) {
    let restored = restore(dead_letter, dead_letter.data.clone());
    restored.unwrap_or_else(|_cut| (dead_letter.data.clone(), dead_letter.attributes.clone()))
}

/// Returns the device of a dead letter, if it is known.
pub(super) fn device(dead_letter: &Message) -> Option<String> {
    dead_letter.attributes.get(DEVICE_ID).cloned().or_else(|| enriched_device(dead_letter))
}

fn enriched_device(dead_letter: &Message) -> Option<String> {
    let envelope = Envelope::read(&original(dead_letter).0)?;
    envelope.enrichment.get("DeviceID")?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use clap::Command;
    use time::macros::datetime;

    use super::*;

    /// Parses the options of a command.
    fn given<T: Args>(args: &str) -> T {
        let command = T::augment_args(Command::new("list").no_binary_name(true));
        T::from_arg_matches(&command.get_matches_from(args.split_whitespace())).unwrap()
    }

    #[test]
    fn each_condition_counts() {
        let dead_letter = Message::new("x")
            .with_attribute("dl_service", "bigqueries")
            .with_attribute("dl_reason", "row_type_mismatch")
            .with_attribute("device_id", "d1")
            .with_attribute("dl_first_seen", "2025-06-15T10:00:00Z");
        let all = || Filter::default().of_service("bigqueries");
        let with = |conditions| Filter { conditions, ..all() };

        assert!(all().takes(&dead_letter));
        assert!(Filter::default().takes(&dead_letter), "of all services");
        assert!(!all().of_service("enrich").takes(&dead_letter));
        assert!(!Filter { reason: Some("no_route".into()), ..all() }.takes(&dead_letter));
        assert!(
            with(Conditions { device: Some("d1".into()), ..<_>::default() }).takes(&dead_letter)
        );
        assert!(
            !with(Conditions { device: Some("d2".into()), ..<_>::default() }).takes(&dead_letter)
        );
        let at = datetime!(2025-06-15 10:00 UTC);
        assert!(with(Conditions { since: Some(at), ..<_>::default() }).takes(&dead_letter));
        assert!(!with(Conditions { until: Some(at), ..<_>::default() }).takes(&dead_letter));
        let later = at + time::Duration::SECOND;
        assert!(with(Conditions { until: Some(later), ..<_>::default() }).takes(&dead_letter));
        assert!(!with(Conditions { since: Some(later), ..<_>::default() }).takes(&dead_letter));
    }

    #[test]
    fn each_option_is_read() {
        let all = "--reason no_route --device d1 --since 2025-06-15 --until 2025-06-16T10:00:00Z";

        let filter = given::<Filter>(all).of_service("enrich");
        let none: Filter = given("");

        assert_eq!(filter.service.as_deref(), Some("enrich"));
        assert_eq!(filter.reason.as_deref(), Some("no_route"));
        assert_eq!(filter.conditions.device.as_deref(), Some("d1"));
        assert_eq!(filter.conditions.since, Some(datetime!(2025-06-15 0:00 UTC)));
        assert_eq!(filter.conditions.until, Some(datetime!(2025-06-16 10:00 UTC)));
        assert!(none.takes(&Message::new("x")));
    }

    #[test]
    fn a_command_without_an_option_has_no_condition_of_it() {
        assert!(Filter::of_all(given("")).takes(&Message::new("x")));
    }

    #[test]
    fn a_device_is_found_by_what_the_envelope_says() {
        let data = r#"{"id":"1","payload":"eA==","publishTime":"2025-06-15T10:00:00Z","enrichmentData":{"DeviceID":"d1"}}"#;
        let dead_letter = Message::new(data);
        let of = |device| given::<Filter>(&format!("--device {device}"));

        assert!(of("d1").takes(&dead_letter));
        assert!(!of("d2").takes(&dead_letter));
        assert_eq!(device(&dead_letter).as_deref(), Some("d1"));
        assert_eq!(device(&Message::new("raw")), None);
    }
}
