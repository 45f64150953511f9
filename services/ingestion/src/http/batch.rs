//! Batches: an array of items, or an item in each line.

use std::fmt;

use axum::http::StatusCode;
use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::MAX_ITEMS;
use super::refusal::{Refusal, TOO_LARGE};

/// Splits an array into its items, as they were sent.
pub(super) fn of_array(json: &str) -> Result<Vec<&str>, Refusal> {
    let elements: Elements<'_> = serde_json::from_str(json).map_err(|error| {
        Refusal::invalid("body", format!("the body must be a JSON array of items: {error}"))
    })?;
    check_number(elements.items.iter().map(|item| item.get()).collect(), elements.is_too_long)
}

/// Splits lines into items. Empty lines are no items.
pub(super) fn of_lines(text: &str) -> Result<Vec<&str>, Refusal> {
    let mut lines = text.split('\n').map(str::trim).filter(|line| !line.is_empty());
    let items = lines.by_ref().take(MAX_ITEMS).collect();
    check_number(items, lines.next().is_some())
}

fn check_number(items: Vec<&str>, is_too_long: bool) -> Result<Vec<&str>, Refusal> {
    if is_too_long {
        let detail = format!("a request may have at most {MAX_ITEMS} items");
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE, detail));
    }
    // An empty batch is likely the mistake of a client that believes to have sent something.
    if items.is_empty() {
        return Err(Refusal::invalid("body", "the body must have at least one item"));
    }
    Ok(items)
}

/// First elements of an array.
struct Elements<'a> {
    items: Vec<&'a RawValue>,
    is_too_long: bool,
}

impl<'de: 'a, 'a> Deserialize<'de> for Elements<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Array;

        impl<'de> Visitor<'de> for Array {
            type Value = Elements<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Elements<'de>, A::Error> {
                let mut items: Vec<&RawValue> = Vec::new();
                while items.len() < MAX_ITEMS {
                    let Some(item) = array.next_element()? else {
                        return Ok(Elements { items, is_too_long: false });
                    };
                    items.push(item);
                }
                let mut is_too_long = false;
                while array.next_element::<IgnoredAny>()?.is_some() {
                    is_too_long = true;
                }
                Ok(Elements { items, is_too_long })
            }
        }

        deserializer.deserialize_seq(Array)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_found_in_arrays_and_lines() {
        assert_eq!(of_array(r#" [ {"a" :1} ,7 ] "#).unwrap(), [r#"{"a" :1}"#, "7"]);
        assert_eq!(of_lines("{}\n\n {\"a\":1}\r\n7").unwrap(), ["{}", "{\"a\":1}", "7"]);
    }

    #[test]
    fn a_batch_has_between_1_and_1000_items() {
        let array = |count| format!("[{}]", vec!["0"; count].join(","));
        let lines = |count| "0\n".repeat(count);

        for count in [1, 1000] {
            assert_eq!(of_array(&array(count)).unwrap().len(), count);
            assert_eq!(of_lines(&lines(count)).unwrap().len(), count);
        }
        for (count, status) in [(0, StatusCode::BAD_REQUEST), (1001, StatusCode::PAYLOAD_TOO_LARGE)]
        {
            assert_eq!(of_array(&array(count)).unwrap_err().status, status);
            assert_eq!(of_lines(&lines(count)).unwrap_err().status, status);
        }
    }

    #[test]
    fn an_array_that_is_cut_is_refused_as_a_whole() {
        for wrong in ["[{}", "[{},]", "[{}] 1", "{}", "[{} {}]"] {
            assert_eq!(of_array(wrong).unwrap_err().status, StatusCode::BAD_REQUEST, "{wrong}");
        }
    }
}
