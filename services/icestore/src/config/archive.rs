//! Settings of the objects.

use message::envelope::Input;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service::WrongSettings;
use service::settings::Parsed;

use crate::format::Format;
use crate::key::Template;

/// Names and content of objects.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct ArchiveSettings {
    /// First part of the name of each object; may be empty.
    pub prefix: String,
    /// Template for the folder of an object. Messages with the same result share an object. It may
    /// use `{yyyy}`, `{mm}`, `{dd}`, `{hh}` of the event time, `{location}`, `{enrichment.NAME}`
    /// and `{attribute.NAME}`. A part in `[ ]` is left out if a value in it is missing. Elsewhere a
    /// missing value becomes `unknown`.
    pub batch_key: Parsed<Template>,
    /// Attribute with the time of the folder in RFC 3339, such as `test_publish_time`. It takes the
    /// place of the event time in `batch_key`. A message without it, or with another text in it, keeps
    /// its event time. Whoever sends messages chooses their folders then, so set it for tests only.
    pub time_attribute: Option<String>,
    /// Form of a message's data.
    pub input: Input,
    /// Format of objects: `jsonl.gz`, `jsonl.zst`, or `parquet`.
    pub format: Format,
    /// Level of gzip or zstd; 1 (fast) to 9 (small).
    pub compression_level: u32,
}

impl ArchiveSettings {
    /// Returns the batch key that the template describes.
    ///
    /// # Errors
    /// The template is wrong.
    pub fn template(&self) -> Result<Template, WrongSettings> {
        let template = self.batch_key.value("archive.batch_key")?.clone();
        Ok(template.with_time_attribute(self.time_attribute.clone()))
    }
}

impl Default for ArchiveSettings {
    fn default() -> Self {
        Self {
            prefix: "archive".into(),
            batch_key: Template::DEFAULT.into(),
            time_attribute: None,
            input: Input::Auto,
            format: Format::JsonlGz,
            compression_level: 1,
        }
    }
}
