//! Messages that an estimate is for.

use message::envelope::Input;
use serde::Serialize;

/// Bytes of an envelope beside its payload: id, time, and the data of enrichment.
const ENVELOPE_BYTES: f64 = 300.0;
/// Bytes of the attributes that ingestion gives to a message.
const ATTRIBUTE_BYTES: f64 = 200.0;
/// Bytes that Pub/Sub bills for each message beside data and attributes: its time and its id.
const PUBSUB_BYTES: f64 = 40.0;

/// Messages that an estimate is for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Load {
    /// Messages a second, as a mean over the month.
    pub rate: f64,
    /// Bytes of the payload of a message, as a device sends it.
    pub payload_bytes: f64,
    /// Devices that send them, if they are known.
    pub devices: Option<f64>,
    /// Share of messages, 0 to 1, whose document a cache has. Without it, it is estimated.
    pub hit_rate: Option<f64>,
    /// Batch keys that are open at once, such as locations.
    pub keys: f64,
    /// Plain bytes for each byte that is stored, if they are known.
    pub compression: Option<f64>,
}

impl Load {
    /// Creates messages of this rate and size, with one batch key.
    #[must_use]
    pub fn new(rate: f64, payload_bytes: f64) -> Self {
        let (devices, hit_rate, compression) = (None, None, None);
        Self { rate, payload_bytes, devices, hit_rate, keys: 1.0, compression }
    }

    /// Returns the bytes of a message's data in Pub/Sub, for a service that reads it in this form.
    #[must_use]
    pub fn data_bytes(&self, input: Input) -> f64 {
        match input {
            Input::Auto | Input::Envelope => base64(self.payload_bytes) + ENVELOPE_BYTES,
            Input::Raw => self.payload_bytes,
        }
    }

    /// Returns the bytes of a message that Pub/Sub bills, for a service that reads it in this form.
    #[must_use]
    pub fn message_bytes(&self, input: Input) -> f64 {
        let attributes = match input {
            Input::Auto | Input::Envelope => ATTRIBUTE_BYTES,
            Input::Raw => 0.0,
        };
        self.data_bytes(input) + attributes + PUBSUB_BYTES
    }
}

/// Returns the bytes of data in base64.
#[must_use]
pub(super) fn base64(bytes: f64) -> f64 {
    (bytes / 3.0).ceil() * 4.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_its_payload_in_an_envelope_with_attributes() {
        let load = Load::new(1.0, 300.0);

        // 400 bytes of base64, an envelope, attributes, and what Pub/Sub adds.
        assert_eq!(load.message_bytes(Input::Auto), 400.0 + 300.0 + 200.0 + 40.0);
        assert_eq!(load.message_bytes(Input::Envelope), 940.0);
        assert_eq!(load.message_bytes(Input::Raw), 340.0);
        assert_eq!(base64(1.0), 4.0);
    }
}
