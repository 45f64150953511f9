//! W3C trace context: one attribute that accompanies a message over every hop.
//!
//! <https://www.w3.org/TR/trace-context/#traceparent-header>

use rand::Rng as _;

use crate::Message;
use crate::attribute::TRACEPARENT;

/// Parts of a `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context<'a> {
    /// Id of the trace, as 32 hexadecimal digits.
    pub trace_id: &'a str,
    /// Id of the span that the message was sent in, as 16 hexadecimal digits.
    pub span_id: &'a str,
    /// True if the sender may have recorded the span.
    pub is_sampled: bool,
}

impl<'a> Context<'a> {
    /// Reads a `traceparent`. Returns nothing for one that cannot be continued: only version 00 can,
    /// and no id of zeros.
    #[must_use]
    pub fn parse(parent: &'a str) -> Option<Self> {
        let is_hex = |part: &str, length| {
            part.len() == length && part.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
        };
        let is_id = |part, length| is_hex(part, length) && part.bytes().any(|c| c != b'0');
        let mut parts = parent.split('-');
        let mut next = || parts.next().unwrap_or_default();
        let (version, trace_id, span_id, flags) = (next(), next(), next(), next());
        let is_valid = version == "00"
            && is_id(trace_id, 32)
            && is_id(span_id, 16)
            && is_hex(flags, 2)
            && parts.next().is_none();
        let is_sampled = u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & 1 == 1);
        is_valid.then_some(Self { trace_id, span_id, is_sampled })
    }

    /// Returns the context of a message, for its logs.
    #[must_use]
    pub fn of(message: &'a Message) -> Option<Self> {
        Self::parse(message.attributes.get(TRACEPARENT)?)
    }
}

/// Returns true for a `traceparent` that can be continued: version 00, and no id of zeros.
#[must_use]
pub fn is_valid(parent: &str) -> bool {
    Context::parse(parent).is_some()
}

/// Creates a new context that is not sampled, because nobody has recorded it yet.
#[must_use]
pub fn new_parent() -> String {
    let mut random = rand::rng();
    // Zero means "invalid".
    let (trace, span) = (random.random_range(1..=u128::MAX), random.random_range(1..=u64::MAX));
    format!("00-{trace:032x}-{span:016x}-00")
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
        let (trace_id, span_id) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        let message = |flags: &str| {
            let parent = format!("00-{trace_id}-{span_id}-{flags}");
            Message::new("x").with_attribute(TRACEPARENT, parent)
        };

        for (flags, is_sampled) in [("00", false), ("01", true), ("fe", false), ("ff", true)] {
            let context = Context { trace_id, span_id, is_sampled };
            assert_eq!(Context::of(&message(flags)), Some(context), "{flags}");
        }
        assert_eq!(Context::of(&Message::new("x")), None);
    }
}
