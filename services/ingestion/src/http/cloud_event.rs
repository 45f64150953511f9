//! CloudEvents 1.0, in JSON or with their attributes in the headers.
//!
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md>

use axum::body::Bytes;
use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode;
use serde_json::Value;
use serde_json::value::RawValue;

use super::item::{Item, check_id, check_source, read_time, required};
use super::members::{Members, text};
use super::refusal::Refusal;
use crate::route::TRACE_PROPERTY;

/// Prefix of headers and message attributes that hold attributes of an event.
const PREFIX: &str = "ce-";
/// Version of the format.
const VERSION: &str = "1.0";

/// EventAttributes of an event, by name.
#[derive(Default)]
struct EventAttributes(Vec<(String, String)>);

/// Reads an event in JSON.
pub(super) fn read(json: &str) -> Result<Item, Refusal> {
    let mut attributes = EventAttributes::default();
    let (mut data, mut encoded) = (None, None);
    for (name, value) in Members::read(json)?.into_iter() {
        match name.as_str() {
            "data" => data = Some(value),
            "data_base64" => encoded = text("data_base64", value)?,
            _ => attributes.add(name, value)?,
        }
    }
    let payload = match (data, encoded) {
        (Some(_), Some(_)) => {
            return Err(Refusal::invalid("data_base64", "an event has data, or data_base64"));
        }
        (None, Some(encoded)) => STANDARD.decode(encoded).map_err(|error| {
            Refusal::invalid("data_base64", format!("data_base64 must be base64: {error}"))
        })?,
        (Some(data), None) => attributes.payload(data),
        (None, None) => Vec::new(),
    };
    attributes.item(payload.into())
}

/// Reads an event whose attributes are in the headers.
pub(super) fn of_headers(headers: &HeaderMap, body: Bytes) -> Result<Item, Refusal> {
    let mut attributes = EventAttributes::default();
    for (header, value) in headers {
        let Some(name) = header.as_str().strip_prefix(PREFIX) else { continue };
        let value = percent_decode(value.as_bytes()).decode_utf8().map_err(|_| {
            let right = format!("{header} must be UTF-8, with % before its bytes");
            Refusal::invalid(header.as_str(), right)
        })?;
        if attributes.get(name).is_some() {
            return Err(Refusal::invalid(header.as_str(), format!("{header} stands twice")));
        }
        attributes.0.push((name.to_owned(), value.into_owned()));
    }
    attributes.item(body)
}

impl EventAttributes {
    fn add(&mut self, name: String, value: &RawValue) -> Result<(), Refusal> {
        let is_name =
            !name.is_empty() && name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        if !is_name {
            let right = format!("{name}: attributes of an event have names of a-z and 0-9");
            return Err(Refusal::invalid(name, right));
        }
        let text = match serde_json::from_str(value.get()) {
            Ok(Value::Null) => return Ok(()),
            Ok(Value::String(text)) => text,
            Ok(Value::Number(_) | Value::Bool(_)) => value.get().to_owned(),
            Ok(Value::Array(_) | Value::Object(_)) | Err(_) => {
                let right = format!("{name} must be a text, a number, true or false");
                return Err(Refusal::invalid(name, right));
            }
        };
        self.0.push((name, text));
        Ok(())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Returns the bytes of `data`. A text is the content itself, if its media type is not JSON.
    fn payload(&self, data: &RawValue) -> Vec<u8> {
        let media_type = self.get("datacontenttype").unwrap_or("application/json");
        let media_type = media_type.split(';').next().unwrap_or_default().trim_end();
        let is_json = media_type.ends_with("/json") || media_type.ends_with("+json");
        match serde_json::from_str::<String>(data.get()) {
            Ok(text) if !is_json => text.into_bytes(),
            _ => data.get().as_bytes().to_vec(), // JSON, as it was sent.
        }
    }

    fn item(self, payload: Bytes) -> Result<Item, Refusal> {
        let needed = |name: &str| self.get(name).filter(|value| !value.is_empty());
        let version = needed("specversion").ok_or_else(|| required("specversion"))?;
        if version != VERSION {
            return Err(Refusal::invalid("specversion", "specversion must be 1.0"));
        }
        needed("type").ok_or_else(|| required("type"))?;
        let id = needed("id").ok_or_else(|| required("id"))?;
        let id = check_id("id", id.to_owned())?;
        let source_id = check_source("source", needed("source").map(str::to_owned))?;
        let time = self.get("time").map(|time| read_time("time", time)).transpose()?;
        let attributes = self.0.into_iter().map(|(name, value)| {
            // The extension for distributed tracing.
            let is_trace = name == TRACE_PROPERTY;
            (if is_trace { name } else { format!("{PREFIX}{name}") }, value)
        });
        let (id, attributes) = (Some(id), attributes.collect());
        Ok(Item { source_id, time, payload, id, attributes })
    }
}
