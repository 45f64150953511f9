//! Readings of simulated devices: JSON payloads that show whether they are complete.

use serde::Deserialize;
use serde_json::{Value, json};

/// A reading, identified by its device and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
pub struct Reading {
    /// Number of the device, from 0.
    pub device: u32,
    /// Number of the reading, from 0, over all devices.
    pub number: u64,
}

impl Reading {
    /// Returns the name of the device, which is in the topic.
    #[must_use]
    pub fn device_name(self) -> String {
        format!("device-{:05}", self.device)
    }

    /// Returns the location of the device, as in its document.
    #[must_use]
    pub fn location(self) -> String {
        location(self.device)
    }

    /// Returns the topic below this first level.
    #[must_use]
    pub fn topic(self, branch: &str) -> String {
        format!("{branch}/{}/up", self.device_name())
    }

    /// Returns the payload, padded to `bytes`. The same reading always has the same payload.
    #[must_use]
    pub fn payload(self, fleet: &str, bytes: usize) -> Vec<u8> {
        let Self { device, number } = self;
        let tenths = number.wrapping_mul(2_654_435_761) % 400;
        let (whole, tenth) = (tenths / 10, tenths % 10);
        let mut payload = format!(
            r#"{{"fleet":"{fleet}","device":{device},"number":{number},"temperature":{whole}.{tenth},"padding":""#
        )
        .into_bytes();
        const END: &[u8] = b"\"}";
        let mut state = number.wrapping_mul(6_364_136_223_846_793_005) | 1;
        while payload.len() + END.len() < bytes {
            // xorshift64: this padding compresses like readings, and zeros would compress too well.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let digits = format!("{:x}", state & 0xffff);
            let room = bytes - payload.len() - END.len();
            payload.extend_from_slice(&digits.as_bytes()[..digits.len().min(room)]);
        }
        payload.extend_from_slice(END);
        payload
    }

    /// Returns the reading in a payload of this fleet; `None` for another payload.
    #[must_use]
    pub fn of(fleet: &str, payload: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Marked<'a> {
            fleet: &'a str,
            #[serde(flatten)]
            reading: Reading,
        }
        let marked: Marked<'_> = serde_json::from_slice(payload).ok()?;
        (marked.fleet == fleet).then_some(marked.reading)
    }
}

fn location(device: u32) -> String {
    format!("site-{}", device % 7)
}

/// Returns the documents of the devices of a fleet, by id.
pub fn documents(devices: u32) -> impl Iterator<Item = (String, Value)> {
    (0..devices).map(|device| {
        let id = Reading { device, number: 0 }.device_name();
        let (client, site) = (format!("client-{}", device % 10), location(device));
        (id, json!({ "ClientID": client, "LocationID": site, "Category": "simulated" }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_has_its_size_and_tells_its_reading() {
        let reading = Reading { device: 7, number: 42 };

        for bytes in [0, 200, 1000, 1001] {
            let payload = reading.payload("f", bytes);
            assert_eq!(Reading::of("f", &payload), Some(reading));
            assert!(bytes < 100 || payload.len() == bytes);
        }
        assert_eq!(Reading::of("other", &reading.payload("f", 100)), None);
        assert_eq!(Reading::of("f", b"{}"), None);
    }
}
