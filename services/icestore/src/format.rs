//! Formats of objects.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Format of objects. The name in the settings is also the suffix of the objects' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema, Serialize)]
pub enum Format {
    /// Lines of JSON, compressed with gzip.
    #[default]
    #[serde(rename = "jsonl.gz")]
    JsonlGz,
    /// Lines of JSON, compressed with zstd.
    #[serde(rename = "jsonl.zst")]
    JsonlZst,
    /// Columns, compressed with zstd. Programs read only the columns that they need.
    #[serde(rename = "parquet")]
    Parquet,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 3] = [Self::JsonlGz, Self::JsonlZst, Self::Parquet];

    /// Returns the end of the names of objects.
    #[must_use]
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::JsonlGz => ".jsonl.gz",
            Self::JsonlZst => ".jsonl.zst",
            Self::Parquet => ".parquet",
        }
    }

    /// Returns the media type of objects.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::JsonlGz => "application/gzip",
            // RFC 8878, 7.1.
            Self::JsonlZst => "application/zstd",
            // <https://www.iana.org/assignments/media-types/application/vnd.apache.parquet>
            Self::Parquet => "application/vnd.apache.parquet",
        }
    }

    /// Returns the format of an object by its name, or `None` if the archive has no such objects.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| name.ends_with(format.suffix()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_known_by_the_suffix_that_the_settings_name() {
        for format in Format::ALL {
            let setting = serde_json::to_value(format).unwrap();
            let suffix = format!(".{}", setting.as_str().unwrap());

            assert_eq!(format.suffix(), suffix);
            assert_eq!(Format::of(&format!("archive/2025/06/15/id{suffix}")), Some(format));
        }
        assert_eq!(Format::of("archive/2025/06/15/id.json"), None);
    }
}
