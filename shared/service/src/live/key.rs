//! Key of callers on other machines.

use std::path::Path;

use axum::http::HeaderMap;
use tracing::warn;

/// Minimum length of a key in characters.
const MIN_LENGTH: usize = 32;

/// Reads the key of a file. Errors do not repeat it.
pub(crate) fn read(file: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(file);
    let text = text.map_err(|error| format!("cannot be read: {error}"))?;
    let key = text.trim();
    if key.len() < MIN_LENGTH || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!(
            "must hold one key of at least {MIN_LENGTH} ASCII characters without spaces"
        ));
    }
    Ok(key.to_owned())
}

/// Returns true if the headers have the key of a file.
pub(crate) fn is_given(file: &Path, headers: &HeaderMap) -> bool {
    let Some(given) = headers.get("x-api-key") else { return false };
    match read(file) {
        Ok(key) => is_same(key.as_bytes(), given.as_bytes()),
        Err(wrong) => {
            warn!(wrong, "http.live_key_file cannot be used");
            false
        }
    }
}

/// Compares two keys. The time does not depend on the place of the first difference.
fn is_same(key: &[u8], given: &[u8]) -> bool {
    let differences = key.iter().zip(given).fold(0, |sum, (one, other)| sum | (one ^ other));
    key.len() == given.len() && std::hint::black_box(differences) == 0
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn only_the_whole_key_of_the_file_counts() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        let key = "0123456789abcdef0123456789abcdef";
        std::fs::write(&file, format!("{key}\n")).unwrap();
        let is = |given: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-api-key", HeaderValue::from_str(given).unwrap());
            is_given(&file, &headers)
        };

        assert!(is(key));
        assert!(!is(&key[1..]) && !is("") && !is(&format!("{key}x")));
        assert!(!is("0123456789abcdef0123456789abcdeF"));
        assert!(!is_given(&file, &HeaderMap::new()));
        std::fs::write(&file, "short").unwrap();
        assert!(!is("short"), "a key that can be guessed counts as none");
        assert!(read(&file).unwrap_err().contains("at least 32"));
    }
}
