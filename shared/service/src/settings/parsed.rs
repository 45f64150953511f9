//! Text in settings that stands for a value, such as a template.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use pipeline::{Error, Recovery};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Faults, url};

/// Settings that do not fit what they name, such as a table of another form. A service that fails for
/// them ends with exit code 2, as for settings that are wrong in themselves.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WrongSettings(pub String);

/// Stops the service.
impl From<WrongSettings> for Error {
    fn from(wrong: WrongSettings) -> Self {
        Recovery::Stop.because("read settings", wrong)
    }
}

/// Text of a setting, and the value that it stands for.
///
/// The text is parsed once, where it enters. Wrong text is kept together with its fault, so it does not
/// hide the faults of other keys. [`Parsed::check`] reports the fault. Afterwards [`Parsed::value`]
/// gives the value, and never a substitute for a wrong one.
#[derive(Clone)]
pub struct Parsed<T> {
    text: String,
    value: Result<T, String>,
}

impl<T> Parsed<T> {
    /// Returns the text as the settings have it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the value of the setting `key`.
    ///
    /// # Errors
    /// The text is wrong, and nobody has checked these settings.
    pub fn value(&self, key: impl fmt::Display) -> Result<&T, WrongSettings> {
        self.value.as_ref().map_err(|wrong| WrongSettings(format!("{key}: {wrong}")))
    }

    /// Reports missing or wrong text of the setting `key`, or returns the value. `required` is the
    /// fault of missing text.
    pub fn check_required(&self, key: &str, required: &str, faults: &mut Faults) -> Option<&T> {
        if self.text.is_empty() {
            faults.add(key, required);
            return None;
        }
        self.check(key, faults)
    }

    /// Reports wrong text of the setting `key`, or returns the value.
    pub fn check(&self, key: &str, faults: &mut Faults) -> Option<&T> {
        self.value.as_ref().map_err(|wrong| faults.add(key, wrong)).ok()
    }
}

impl<T: FromStr<Err: fmt::Display>> From<String> for Parsed<T> {
    fn from(text: String) -> Self {
        let value = text.parse().map_err(|wrong: T::Err| wrong.to_string());
        Self { text, value }
    }
}

impl<T: FromStr<Err: fmt::Display>> From<&str> for Parsed<T> {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl<T: FromStr<Err: fmt::Display>> Default for Parsed<T> {
    fn default() -> Self {
        String::new().into()
    }
}

/// Shows the text, without the user and the password of a URL.
impl<T> fmt::Debug for Parsed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.text.clone();
        url::mask(&mut text);
        f.debug_tuple("Parsed").field(&text).finish()
    }
}

impl<T> fmt::Display for Parsed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<T> PartialEq for Parsed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl<T> Eq for Parsed<T> {}

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Parsed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

impl<T> Serialize for Parsed<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<T> JsonSchema for Parsed<T> {
    fn schema_name() -> Cow<'static, str> {
        String::schema_name()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Parsed<u8> {
        serde_json::from_value(json!(text)).unwrap()
    }

    #[test]
    fn right_text_is_a_value_and_is_shown_as_it_was_written() {
        let (setting, mut faults) = (read("07"), Faults::default());

        assert_eq!(setting.check("level", &mut faults), Some(&7));
        assert_eq!(setting.value("level").unwrap(), &7);
        assert_eq!((json!(setting), setting.to_string()), (json!("07"), "07".to_owned()));
        assert!(faults.lines().is_empty());
    }

    #[test]
    fn wrong_text_is_reported_and_never_becomes_another_value() {
        let (setting, mut faults) = (read("seven"), Faults::default());

        assert_eq!(setting.check("level", &mut faults), None);

        let fault = "level: invalid digit found in string";
        assert_eq!(faults.lines(), [fault]);
        assert_eq!(setting.value("level").unwrap_err().to_string(), fault);
        assert_eq!(json!(setting), json!("seven"));
    }

    #[test]
    fn missing_text_of_a_required_setting_has_its_own_fault() {
        let lines = |text| {
            let mut faults = Faults::default();
            read(text).check_required("level", "required: the level", &mut faults);
            faults.lines().to_vec()
        };

        assert_eq!(lines(""), ["level: required: the level"]);
        assert_eq!(lines("seven"), ["level: invalid digit found in string"]);
        assert!(lines("7").is_empty());
    }

    #[test]
    fn a_secret_in_wrong_text_is_not_shown() {
        let setting = Parsed::<u8>::from("redis://enrich:hunter2@h");

        assert_eq!(format!("{setting:?}"), r#"Parsed("redis://***@h")"#);
    }

    #[test]
    fn a_setting_that_is_left_out_is_empty_text() {
        let setting = Parsed::<u8>::default();

        assert_eq!(setting, read(""));
        assert_eq!(setting.text(), "");
    }
}
