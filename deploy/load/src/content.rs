//! Payloads of a run: from a template, from the lines of a file, or from an archive.

pub(crate) mod archive;

use std::path::Path;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use rumqttc::v5::mqttbytes::v5::PublishProperties;
use time::OffsetDateTime;

use crate::args;
use crate::template::Template;
use archive::Archive;

/// Payloads without any option: a reading that the columns of local mode take.
const USUAL: &str =
    r#"{"device":"{{device}}","seq":{{seq}},"temperature":{{walk 20 0.5 -40 60}},"at":"{{now}}"}"#;
/// Most bytes of a file with lines.
const MAX_LINES_BYTES: u64 = 1 << 30;

/// Message of a device.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Message {
    /// Number over all devices.
    pub number: u64,
    /// Topic over MQTT, or source over HTTP.
    pub address: String,
    /// Payload.
    pub payload: Bytes,
    /// Properties of MQTT 5, from an archive.
    pub properties: Option<PublishProperties>,
    /// Event time, from an archive.
    pub time: Option<OffsetDateTime>,
}

/// Kind of the addresses of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AddressKind {
    /// Topics of MQTT.
    Topic,
    /// Sources of items over HTTP.
    Source,
}

/// Payloads of all devices.
#[derive(Debug)]
pub(crate) enum Content {
    /// Each payload is filled in.
    Template {
        /// Template of the payloads.
        payload: Template,
        /// Template of the addresses.
        address: Template,
    },
    /// Payloads are taken in turn.
    Lines {
        /// All payloads.
        payloads: Vec<Bytes>,
        /// Template of the addresses.
        address: Template,
    },
    /// Messages are those of an archive.
    Archive(Archive),
}

impl Content {
    /// Reads everything that the options name.
    ///
    /// # Errors
    /// Fails for a file that cannot be read, and for a wrong template, with the place in it.
    pub(crate) async fn read(
        options: &args::ContentArgs,
        amount: &args::Amount,
        kind: AddressKind,
    ) -> anyhow::Result<Self> {
        if let Some(folder) = &options.archive {
            return Ok(Self::Archive(archive::read(folder, amount, kind).await?));
        }
        let address = match kind {
            AddressKind::Topic => parse("--topic", &options.topic)?,
            AddressKind::Source => parse("--source", &options.source)?,
        };
        if let Some(file) = &options.lines {
            return Ok(Self::Lines { payloads: lines(file)?, address });
        }
        let payload = match (&options.template, &options.template_file) {
            (Some(text), _) => parse("--template", text)?,
            (None, Some(file)) => {
                let text = std::fs::read_to_string(file);
                let text = text.with_context(|| format!("read {}", file.display()))?;
                let text = text.strip_suffix('\n').unwrap_or(&text);
                parse(&format!("--template-file {}", file.display()), text)?
            }
            (None, None) => parse("the usual template", USUAL)?,
        };
        Ok(Self::Template { payload, address })
    }
}

fn parse(name: &str, text: &str) -> anyhow::Result<Template> {
    Template::parse(text).with_context(|| name.to_owned())
}

/// Returns the lines of a file, without their ends.
fn lines(file: &Path) -> anyhow::Result<Vec<Bytes>> {
    let shown = file.display();
    let size = std::fs::metadata(file).with_context(|| format!("read {shown}"))?.len();
    if size > MAX_LINES_BYTES {
        bail!("--lines {shown} has {size} bytes, and may have {MAX_LINES_BYTES}");
    }
    let all = Bytes::from(std::fs::read(file).with_context(|| format!("read {shown}"))?);
    let lines =
        all.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let lines: Vec<_> =
        lines.filter(|line| !line.is_empty()).map(|line| all.slice_ref(line)).collect();
    if lines.is_empty() {
        bail!("--lines {shown} has no lines");
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_payloads_without_their_ends() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lines");
        std::fs::write(&file, "{\"a\":1}\r\n\nsecond").unwrap();

        assert_eq!(lines(&file).unwrap(), ["{\"a\":1}", "second"]);
        std::fs::write(&file, "\n").unwrap();
        assert!(lines(&file).unwrap_err().to_string().ends_with("has no lines"));
    }

    #[test]
    fn the_usual_template_is_right() {
        assert!(parse("usual", USUAL).is_ok());
        let wrong = parse("--topic", "devices/{{id}}").unwrap_err();
        let said = format!("{wrong:#}");
        assert!(said.starts_with("--topic: line 1, column 9: id is no placeholder"), "{said}");
    }
}
