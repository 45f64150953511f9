//! Names of buckets in settings.

use std::fmt;
use std::str::FromStr;

/// Longest name, and longest name with dots.
const MAX_BYTES: usize = 63;
const MAX_BYTES_WITH_DOTS: usize = 222;

/// Name of a bucket, as Cloud Storage takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketName(String);

impl BucketName {
    /// Returns the name, without `gs://`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BucketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Follows <https://cloud.google.com/storage/docs/buckets#naming>, except for rules that Google
/// may change, such as reserved words.
impl FromStr for BucketName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        if let Some(rest) = name.strip_prefix("gs://") {
            return Err(format!(
                "must be the bucket's name without gs://, is `{name}`: try `{rest}`"
            ));
        }
        let is_end = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = name.as_bytes();
        let most = if name.contains('.') { MAX_BYTES_WITH_DOTS } else { MAX_BYTES };
        let is_right = bytes.len() <= most
            && bytes.first().is_some_and(is_end)
            && bytes.last().is_some_and(is_end)
            && bytes.iter().all(|byte| is_end(byte) || b"-_.".contains(byte));
        let right = "must be a bucket's name: small letters, digits, hyphens, underscores and dots";
        if is_right { Ok(Self(name.to_owned())) } else { Err(format!("{right}, is `{name}`")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_form_of_cloud_storage_are_taken() {
        let (long, dotted) = ("b".repeat(63), format!("{}.{}", "b".repeat(111), "c".repeat(110)));
        // The first three are the valid examples of the page above.
        for name in ["my-travel-maps", "0f75d593-8e7b-4418-a5ba-cb2970f0b91e", "test.example.com"]
            .into_iter()
            .chain(["my-archive", "a_b.example.com", "b", &long, &dotted])
        {
            assert_eq!(name.parse::<BucketName>().unwrap().as_str(), name);
        }
    }

    #[test]
    fn other_names_are_refused_with_the_form() {
        let (long, dotted) = ("b".repeat(64), format!("{}.{}", "b".repeat(111), "c".repeat(111)));
        // The first two are the invalid examples of the page above that break its form.
        for name in ["My-Travel-Maps", "test bucket", "Bad_Bucket!", "-b", "b-", "_b", "b."]
            .into_iter()
            .chain(["a/b", "b\u{e4}r", "b\n", "", &long, &dotted])
        {
            let form = "must be a bucket's name: small letters, digits, hyphens, underscores and \
                        dots";
            assert_eq!(name.parse::<BucketName>(), Err(format!("{form}, is `{name}`")));
        }
    }

    #[test]
    fn a_url_is_refused_with_the_name_in_it() {
        let wrong = "must be the bucket's name without gs://, is `gs://b`: try `b`";
        assert_eq!("gs://b".parse::<BucketName>(), Err(wrong.to_owned()));
    }
}
