use std::fmt;

use crate::reason::Reason;
use crate::reasons;

/// The reaction of the pipeline to a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// Try the same operation again after a back-off.
    Retry,
    /// Give up this message, because it would fail in the same way every time. Holds the reason
    /// for the dead letter.
    Reject(Reason),
    /// Nack the message after a short hold, so that it is redelivered later. Waiting here would delay others.
    Nack,
    /// Stop the service, because no message can succeed.
    Stop,
}

impl Recovery {
    /// Creates an error that asks for this recovery, with the failed action and its cause.
    pub fn because(
        self,
        action: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        Error { recovery: self, action, source: source.into() }
    }
}

/// A failure that names the next step of the caller.
#[derive(Debug, thiserror::Error)]
pub struct Error {
    recovery: Recovery,
    action: &'static str,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl Error {
    /// Returns the recovery that the error asks for.
    #[must_use]
    pub fn recovery(&self) -> Recovery {
        self.recovery
    }

    /// Returns the same failure with another recovery.
    #[must_use]
    pub fn with_recovery(mut self, recovery: Recovery) -> Self {
        self.recovery = recovery;
        self
    }

    /// Returns the cause and its own causes in one line, without the action.
    #[must_use]
    pub fn detail(&self) -> String {
        let mut text = self.source.to_string();
        let mut next = self.source.source();
        while let Some(cause) = next {
            let cause_text = cause.to_string();
            // Many clients already print their cause in their own text.
            if !text.contains(&cause_text) {
                text.push_str(": ");
                text.push_str(&cause_text);
            }
            next = cause.source();
        }
        text
    }
}

impl From<message::envelope::NotAnEnvelope> for Error {
    fn from(error: message::envelope::NotAnEnvelope) -> Self {
        Recovery::Reject(reasons::NOT_AN_ENVELOPE).because("read envelope", error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.action)?;
        if f.alternate() {
            write!(f, ": {}", self.detail())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Cause {
        text: &'static str,
        source: Option<Box<Cause>>,
    }

    #[test]
    fn each_cause_is_told_once() {
        let cause = |text, source| Cause { text, source: Option::map(source, Box::new) };
        let inner = cause("connection refused", None);
        let repeated = cause("send failed: connection refused", Some(inner));
        let outer = cause("no answer", Some(repeated));

        let error = Recovery::Retry.because("insert rows", outer);

        assert_eq!(error.detail(), "no answer: send failed: connection refused");
        assert_eq!(error.to_string(), "insert rows");
        assert_eq!(format!("{error:#}"), "insert rows: no answer: send failed: connection refused");
        assert_eq!(error.recovery(), Recovery::Retry);
    }
}
