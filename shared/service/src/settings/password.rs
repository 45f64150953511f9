//! Password in settings.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

/// Password that is never shown. A variable that sets one is taken as it is, with quotes and spaces.
#[derive(Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(extend("format" = Self::FORMAT))]
pub struct Password(String);

impl Password {
    /// Format of a password in the schema of settings.
    pub(super) const FORMAT: &'static str = "password";

    /// Creates a password.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the text of the password; `None` if it is empty.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        Some(self.0.as_str()).filter(|text| !text.is_empty())
    }

    fn masked(&self) -> &'static str {
        if self.0.is_empty() { "" } else { "***" }
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.masked())
    }
}

impl Serialize for Password {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.masked())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        let (set, empty) = (Password::new("hunter2"), Password::default());

        assert_eq!((set.text(), empty.text()), (Some("hunter2"), None));
        assert_eq!(format!("{set:?}{empty:?}"), "***");
        assert_eq!(serde_json::to_string(&[set, empty]).unwrap(), r#"["***",""]"#);
    }
}
