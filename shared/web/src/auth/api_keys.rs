//! API keys of a file.

use std::collections::BTreeSet;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use serde::Deserialize;

use super::{Identity, scope};

/// Minimum length of a key in characters.
const MIN_LENGTH: usize = 32;
/// Maximum number of keys. Each request is compared with all of them.
const MAX_KEYS: usize = 1000;
const DIGEST_BYTES: usize = 32;

/// API keys, of which only digests are kept.
pub(super) struct ApiKeys(Vec<ApiKey>);

struct ApiKey {
    digest: [u8; DIGEST_BYTES],
    identity: Identity,
}

/// Entry of a file in YAML or JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    key: Option<String>,
    sha256: Option<String>,
    scopes: Vec<String>,
}

impl ApiKeys {
    /// Reads a file: entries in YAML or JSON, or one key a line. No error repeats a part of the file.
    pub(super) fn read(content: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(content).map_err(|_| "is not UTF-8")?;
        let mut lines = text.lines().enumerate().filter(|(_, line)| is_content(line)).peekable();
        let Some((_, first)) = lines.peek() else {
            return Err("has no key; write [] to refuse all".into());
        };
        let is_list = first.starts_with("- ") || first.trim() == "-" || first.starts_with('[');
        let keys: Vec<ApiKey> = if is_list {
            entries(text)?
        } else {
            let keys = lines.map(|(index, line)| {
                of_line(line).map_err(|wrong| format!("line {}: {wrong}", index + 1))
            });
            keys.collect::<Result<_, _>>()?
        };
        if keys.len() > MAX_KEYS {
            return Err(format!("has more than {MAX_KEYS} keys"));
        }
        let digests: BTreeSet<_> = keys.iter().map(|key| key.digest).collect();
        if digests.len() < keys.len() {
            return Err("has a key twice".into());
        }
        Ok(Self(keys))
    }

    /// Returns the owner of a key. Its time does not depend on which key is right, or how much of it.
    pub(super) fn find(&self, key: &str) -> Option<Identity> {
        let digest = digest_of(key);
        let mut found = None;
        for known in &self.0 {
            if verify_slices_are_equal(&known.digest, &digest).is_ok() {
                found = Some(&known.identity);
            }
        }
        found.cloned()
    }
}

/// Returns whether a line is neither empty nor a comment.
fn is_content(line: &str) -> bool {
    let line = line.trim();
    !line.is_empty() && !line.starts_with('#') && line != "---"
}

/// Reads the key of a line. It has all scopes, and a name from its digest.
fn of_line(line: &str) -> Result<ApiKey, String> {
    let key = line.trim();
    check_key(key)?;
    let digest = digest_of(key);
    let start: String = digest[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(ApiKey { digest, identity: Identity::new(format!("key-{start}"), scope::ALL) })
}

fn entries(text: &str) -> Result<Vec<ApiKey>, String> {
    let entries: Vec<Entry> = serde_yaml::from_str(text).map_err(|error| {
        // The text of the error may repeat a key.
        let line = error.location().map(|at| format!("line {}: ", at.line())).unwrap_or_default();
        format!("{line}must be a list of entries with name, scopes, and key or sha256")
    })?;
    let keys = entries.into_iter().enumerate().map(|(index, entry)| {
        of_entry(entry).map_err(|wrong| format!("entry {}: {wrong}", index + 1))
    });
    keys.collect()
}

fn of_entry(entry: Entry) -> Result<ApiKey, String> {
    if entry.name.is_empty() {
        return Err("needs a name".into());
    }
    let is_known = |scope: &String| scope::ALL.contains(&scope.as_str());
    if entry.scopes.is_empty() || !entry.scopes.iter().all(is_known) {
        return Err(format!("its scopes must be some of {}", scope::ALL.join(", ")));
    }
    let digest = match (entry.key, entry.sha256) {
        (Some(key), None) => {
            check_key(&key)?;
            digest_of(&key)
        }
        (None, Some(hex)) => of_hex(&hex).ok_or("its sha256 must be 64 hexadecimal digits")?,
        _ => return Err("needs either key or sha256".into()),
    };
    Ok(ApiKey { digest, identity: Identity::new(entry.name, entry.scopes) })
}

/// Checks that a key is long enough and can be sent as a token [RFC 6750, 2.1].
fn check_key(key: &str) -> Result<(), String> {
    let is_right = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    if !key.bytes().all(is_right) {
        return Err("a key may have letters, digits and -._~+/= only".into());
    }
    let is_long = key.len() >= MIN_LENGTH;
    is_long.then_some(()).ok_or_else(|| format!("a key must have at least {MIN_LENGTH} characters"))
}

fn digest_of(key: &str) -> [u8; DIGEST_BYTES] {
    let mut bytes = [0; DIGEST_BYTES];
    bytes.copy_from_slice(digest(&SHA256, key.as_bytes()).as_ref());
    bytes
}

fn of_hex(text: &str) -> Option<[u8; DIGEST_BYTES]> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect();
    let bytes: Vec<u8> =
        digits?.chunks(2).map(|pair| pair.iter().fold(0, |b, d| b << 4 | d)).collect();
    let is_whole = text.len() == 2 * DIGEST_BYTES;
    if is_whole { bytes.try_into().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef0123456789abcdef";
    const OTHER: &str = "-another.key_of~32+characters/==";

    fn wrong(content: &str) -> String {
        ApiKeys::read(content.as_bytes()).err().unwrap_or_default()
    }

    #[test]
    fn keys_stand_one_a_line() {
        let keys =
            ApiKeys::read(format!("# ours\n\n{KEY}\r\n  {}\n", "k".repeat(32)).as_bytes()).unwrap();

        let owner = keys.find(KEY).unwrap();

        assert_eq!(owner.subject.as_deref(), Some("key-3eb1bd43"), "the digest is SHA-256");
        assert!(scope::ALL.iter().all(|scope| owner.require(scope).is_ok()));
        assert_eq!(keys.find(OTHER), None);
        assert_eq!(keys.find(&KEY[1..]), None);
        assert_eq!(keys.find(""), None);
    }

    #[test]
    fn a_key_may_begin_like_a_list() {
        let key = "-".repeat(32);

        assert!(ApiKeys::read(key.as_bytes()).unwrap().find(&key).is_some());
    }

    #[test]
    fn entries_have_names_and_scopes_in_yaml_and_json() {
        let digest: String = digest_of(OTHER).iter().map(|byte| format!("{byte:02X}")).collect();
        let yaml = format!(
            "# gateways\n- name: gateway\n  key: {KEY}\n  scopes: [ingest]\n\
             - {{name: viewer, sha256: {digest}, scopes: [live, payload]}}\n"
        );
        let json = format!(
            "[{{\"name\":\"gateway\",\"key\":\"{KEY}\",\"scopes\":[\"ingest\"]}},\
             {{\"name\":\"viewer\",\"sha256\":\"{digest}\",\"scopes\":[\"live\",\"payload\"]}}]"
        );

        for text in [yaml, json] {
            let keys = ApiKeys::read(text.as_bytes()).unwrap();

            assert_eq!(keys.find(KEY), Some(Identity::new("gateway", ["ingest"])));
            assert_eq!(keys.find(OTHER), Some(Identity::new("viewer", ["live", "payload"])));
            assert_eq!(keys.find(&digest), None, "a digest is no key");
        }
    }

    #[test]
    fn a_wrong_file_is_refused_without_its_content() {
        let entry = |rest: &str| format!("- {{name: n, scopes: [read], {rest}}}");
        let short = format!("the-secret-{}", "x".repeat(20));
        for (text, said) in [
            (String::new(), "has no key; write [] to refuse all"),
            ("# none\n".into(), "has no key; write [] to refuse all"),
            (format!("{KEY}\n{short}"), "line 2: a key must have at least 32 characters"),
            (format!("the-secret {KEY}"), "line 1: a key may have letters"),
            (format!("{KEY}\n{KEY}"), "has a key twice"),
            ("- the-secret".into(), "line 1: must be a list of entries"),
            (entry("key: [the-secret]"), "line 1: must be a list of entries"),
            (entry("the-secret: 1"), "line 1: must be a list of entries"),
            (entry(&format!("key: {short}")), "entry 1: a key must have at least 32"),
            (entry("sha256: the-secret"), "entry 1: its sha256 must be 64"),
            (entry(""), "entry 1: needs either key or sha256"),
            (entry(&format!("key: {KEY}, sha256: {}", "0".repeat(64))), "entry 1: needs either"),
            (format!("- {{name: n, scopes: [], key: {KEY}}}"), "entry 1: its scopes must be"),
            (format!("- {{name: n, scopes: [the-secret], key: {KEY}}}"), "entry 1: its scopes"),
            (format!("- {{name: '', scopes: [read], key: {KEY}}}"), "entry 1: needs a name"),
        ] {
            let found = wrong(&text);
            assert!(found.contains(said), "{text}: {found}");
            assert!(!found.contains("the-secret"), "{found}");
        }
    }

    #[test]
    fn an_empty_list_refuses_all() {
        assert_eq!(ApiKeys::read(b"[]").unwrap().find(KEY), None);
    }
}
