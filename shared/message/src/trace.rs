//! W3C trace context: one attribute that accompanies a message over every hop.
//!
//! <https://www.w3.org/TR/trace-context/#traceparent-header>

use rand::Rng as _;

use crate::Message;
use crate::attribute::TRACEPARENT;

/// Returns true for a `traceparent` that can be continued: version 00, and no id of zeros.
#[must_use]
pub fn is_valid(parent: &str) -> bool {
    let is_hex = |part: &str, length| {
        part.len() == length && part.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_id = |part, length| is_hex(part, length) && part.bytes().any(|c| c != b'0');
    let parts: Vec<&str> = parent.split('-').collect();
    let [version, trace, span, flags] = parts[..] else { return false };
    version == "00" && is_id(trace, 32) && is_id(span, 16) && is_hex(flags, 2)
}

/// Creates a new context that is not sampled, because nobody has recorded it yet.
#[must_use]
pub fn new_parent() -> String {
    let mut random = rand::rng();
    // Zero means "invalid".
    let (trace, span) = (random.random_range(1..=u128::MAX), random.random_range(1..=u64::MAX));
    format!("00-{trace:032x}-{span:016x}-00")
}

/// Returns the trace id of a message, for its logs.
#[must_use]
pub fn id(message: &Message) -> Option<&str> {
    let parent = message.attributes.get(TRACEPARENT).filter(|parent| is_valid(parent))?;
    parent.split('-').nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_context_is_valid_and_not_the_last_one() {
        let (first, second) = (new_parent(), new_parent());

        assert!(is_valid(&first), "{first}");
        assert_ne!(first, second);
    }

    #[test]
    fn what_is_no_context_is_told_from_one() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";

        assert!(is_valid(&format!("00-{trace}-00f067aa0ba902b7-01")));
        for wrong in [
            String::new(),
            format!("00-{trace}-00f067aa0ba902b7"),
            format!("01-{trace}-00f067aa0ba902b7-01"),
            format!("00-{trace}-0000000000000000-01"),
            format!("00-{}-00f067aa0ba902b7-01", trace.to_uppercase()),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{}-00f067aa0ba902b7-01", "a".repeat(31)),
            format!("00-{}g-00f067aa0ba902b7-01", "a".repeat(31)),
            format!("00-{trace}-00f067aa0ba902b7a-01"),
            format!("00-{trace}-00f067aa0ba902bx-01"),
            format!("00-{trace}-00f067aa0ba902b7-1"),
            format!("00-{trace}-00f067aa0ba902b7-0x"),
            format!("00-{trace}-00f067aa0ba902b7-01-00"),
        ] {
            assert!(!is_valid(&wrong), "{wrong}");
        }
    }

    #[test]
    fn a_message_tells_its_trace() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let message = Message::new("x").with_attribute(TRACEPARENT, parent);

        assert_eq!(id(&message), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        assert_eq!(id(&Message::new("x")), None);
    }
}
