//! Values at the edge of every type: times, numbers and ids.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// Times that are valid in RFC 3339, or nearly valid: years that overflow in some types, leap
/// seconds, and days that do not exist.
const TIMES: [&str; 17] = [
    "9999-12-31T23:59:59-01:00",
    "9999-12-31T23:59:59.999999999Z",
    "0000-01-01T00:00:00+01:00",
    "0000-01-01T00:00:00Z",
    "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00+23:59",
    "1970-01-01T00:00:00-23:59",
    "2016-12-31T23:59:60Z",
    "2025-06-30T23:59:60+23:59",
    "9999-12-31T23:59:60-23:59",
    "2025-02-29T12:00:00Z",
    "2025-01-01T24:00:00Z",
    "+10000-01-01T00:00:00Z",
    "-0001-01-01T00:00:00Z",
    "2025-01-01T00:00:00.0000000000000000001Z",
    "2025-01-01t00:00:00z",
    "2025-01-01T00:00:00-00:00",
];

/// JSON numbers, and some values that are not numbers.
const NUMBERS: [&str; 25] = [
    "0",
    "-0",
    "-0.0",
    "1e308",
    "-1.7976931348623157e308",
    "5e-324",
    "1e400",
    "1e-400",
    "1E+2147483648",
    "1e99999999999999999999",
    "0.000000001",
    "0.0000000001",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "-9223372036854775809",
    "18446744073709551615",
    "18446744073709551616",
    "99999999999999999999999999999.999999999",
    "100000000000000000000000000000",
    "253402300799",
    "253402300800",
    "-62167219201",
    "9007199254740993",
    "1e18",
];

/// Words that some parsers take for numbers.
const WORDS: [&str; 6] = ["NaN", "Infinity", "-inf", "1e999999999", "", " 7 "];

/// Returns payloads of devices, each with its own number.
pub(super) fn payloads(mut number: impl FnMut() -> u64) -> Vec<Vec<u8>> {
    let times = TIMES.map(|time| json!(time).to_string());
    let words = WORDS.map(|word| json!(word).to_string());
    let values = times.into_iter().chain(words).chain(NUMBERS.map(String::from));
    let mut payloads = Vec::new();
    for value in values {
        // The same value as a time, an integer, an exact decimal and an arbitrary column.
        for key in ["at", "count", "amount", "temperature"] {
            payloads.push(format!(r#"{{"hostile":{},"{key}":{value}}}"#, number()).into_bytes());
        }
        payloads
            .push(format!(r#"{{"deep":[{{"x":{value}}}],"hostile":{}}}"#, number()).into_bytes());
    }
    payloads
}

/// Returns envelopes that other publishers may send, each with its own number. The number is
/// readable even if a service does not accept the message as an envelope.
pub(super) fn envelopes(mut number: impl FnMut() -> u64) -> Vec<(u64, Vec<u8>)> {
    let mut envelopes = Vec::new();
    let mut add = |envelope: &dyn Fn(u64, String) -> String| {
        let number = number();
        let payload = STANDARD.encode(format!(r#"{{"hostile":{number}}}"#));
        envelopes.push((number, envelope(number, payload).into_bytes()));
    };
    let place = json!({ "location": "site-0" });
    for time in TIMES {
        add(&|number, payload| {
            envelope(
                number,
                &json!({ "id": "edge", "payload": payload, "publishTime": time }),
                &place,
            )
        });
    }
    let time = "2025-06-15T10:00:00Z";
    let long = "i".repeat(10_000);
    for id in ["", "\u{0}", "🦀", long.as_str()] {
        add(&|number, payload| {
            envelope(number, &json!({ "id": id, "payload": payload, "publishTime": time }), &place)
        });
    }
    // These stay text, because a JSON value cannot hold all of them.
    for value in NUMBERS {
        add(&|number, payload| {
            format!(
                r#"{{"hostile":{number},"id":"edge","payload":"{payload}","publishTime":"{time}","enrichmentData":{{"location":{value},"x":[{value}]}}}}"#
            )
        });
    }
    envelopes
}

fn envelope(number: u64, parts: &Value, enrichment: &Value) -> String {
    let mut envelope = parts.clone();
    envelope["hostile"] = number.into();
    envelope["enrichmentData"].clone_from(enrichment);
    envelope.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_has_a_number_of_its_own_that_shows() {
        let mut next = 0..;
        let payloads = payloads(|| next.next().unwrap_or(0));
        let envelopes = envelopes(|| next.next().unwrap_or(0));

        assert_eq!(payloads.len(), 5 * (TIMES.len() + NUMBERS.len() + WORDS.len()));
        for (number, envelope) in envelopes {
            assert_eq!(super::super::number_of(&envelope), Some(number));
        }
        assert_eq!(super::super::number_of(&payloads[4]), Some(4));
    }
}
