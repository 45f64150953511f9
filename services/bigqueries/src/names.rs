//! Names of keys.

use std::str::FromStr;

/// Name of a Cloud KMS key, which is in the text of its setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KmsKey;

impl FromStr for KmsKey {
    type Err = String;

    /// Checks a name. The error says what would be right.
    fn from_str(key: &str) -> Result<Self, String> {
        let parts: Vec<_> = key.split('/').collect();
        match parts[..] {
            ["projects", _, "locations", _, "keyRings", _, "cryptoKeys", _]
                if !parts.contains(&"") =>
            {
                Ok(Self)
            }
            _ => Err(format!(
                "must be projects/P/locations/L/keyRings/R/cryptoKeys/K without a version, is `{key}`"
            )),
        }
    }
}
