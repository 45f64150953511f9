//! URLs in settings. They have a scheme and a host, and hold nothing secret.

use std::fmt;
use std::path::{Component, Path};

use serde_json::Value;

use super::host;

/// Fault of a URL. It never holds the URL, because the URL may hold a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// The URL has a wrong form. The text says which form is right.
    Form(&'static str),
    /// The URL holds a user, a password, or parameters that could be secret.
    Secret,
}

impl Wrong {
    /// Returns the text to report. `instead` says where a user and a password belong.
    #[must_use]
    pub fn because(self, instead: &str) -> String {
        match self {
            Self::Form(like) => like.to_owned(),
            Self::Secret => format!(
                "must not hold a user, a password or parameters, because settings are shown: {instead}"
            ),
        }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.because("set them by keys of their own"))
    }
}

/// Parts of a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts<'a> {
    /// Scheme, such as `https`.
    pub scheme: &'a str,
    /// Host, without the brackets of an IPv6 address.
    pub host: &'a str,
    /// Path, without the slash at its start.
    pub path: &'a str,
}

/// Splits a URL that has one of these schemes and a host, and holds nothing secret.
///
/// # Errors
/// Returns what is wrong. `like` says what would be right.
pub fn split<'a>(url: &'a str, schemes: &[&str], like: &'static str) -> Result<Parts<'a>, Wrong> {
    // This check comes first, because a text that is no URL may hold a password too.
    if url.contains(['@', '?', '#']) {
        return Err(Wrong::Secret);
    }
    let parts = || {
        let (scheme, rest) = url.split_once("://")?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = match authority.strip_prefix('[') {
            // IPv6 addresses are in brackets.
            Some(rest) => rest.split_once(']')?,
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let is_port = port.is_empty() || port.strip_prefix(':')?.parse::<u16>().is_ok();
        let is_host = host::check(host).is_ok();
        (schemes.contains(&scheme) && is_host && is_port).then_some(Parts { scheme, host, path })
    };
    parts().ok_or(Wrong::Form(like))
}

/// Returns the error text for a secret file that cannot be read.
///
/// The file is named only if its folder exists. A user may have put the secret itself in its place,
/// and a secret may have slashes.
#[must_use]
pub fn unreadable_secret(file: &Path, error: &std::io::Error) -> String {
    let is_named = |part| matches!(part, Component::Normal(_));
    let folder = file.parent().filter(|folder| folder.components().any(is_named));
    match folder {
        Some(folder) if folder.is_dir() => format!("cannot read {}: {error}", file.display()),
        _ => format!("must be the path of a file that can be read: {error}"),
    }
}

/// Replaces users and passwords in all URLs of a value with `***`, before the value is shown.
pub(crate) fn mask_secrets(value: &mut Value) {
    match value {
        Value::String(text) => mask(text),
        Value::Array(values) => values.iter_mut().for_each(mask_secrets),
        Value::Object(values) => values.values_mut().for_each(mask_secrets),
        _ => {}
    }
}

/// Replaces the user and the password with `***` if the text is a URL.
pub(crate) fn mask(text: &mut String) {
    if let (Some(start), Some(at)) = (text.find("://"), text.rfind('@'))
        && start + 3 <= at
    {
        text.replace_range(start + 3..at, "***");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIKE: &str = "must be a URL such as http://host:80";

    #[test]
    fn a_url_has_a_scheme_a_host_and_a_port_that_is_one() {
        let check = |url| split(url, &["http", "https"], LIKE).map(|_| ());

        for right in ["http://h", "https://h:1/", "http://127.0.0.1:80/path", "http://[::1]:80"] {
            assert_eq!(check(right), Ok(()), "{right}");
        }
        for wrong in
            ["", "h:80", "http://", "http://:80", "ftp://h", "http://h:x", "http://h:70000"]
        {
            assert_eq!(check(wrong), Err(Wrong::Form(LIKE)), "{wrong}");
        }
    }

    #[test]
    fn a_url_has_parts() {
        let parts = |url| split(url, &["http"], LIKE).unwrap();

        assert_eq!(parts("http://[::1]:80/a/b").host, "::1");
        let whole = Parts { scheme: "http", host: "h", path: "a/b" };
        assert_eq!(parts("http://h:80/a/b"), whole);
        assert_eq!(parts("http://h/").path, "");
    }

    #[test]
    fn a_secret_is_refused_and_never_repeated() {
        let secrets =
            ["http://u:hunter2@h", "u:hunter2@h", "redis://:hun/ter2@h", "http://h?key=hunter2"];
        for url in secrets {
            let wrong = split(url, &["http", "redis"], LIKE).unwrap_err();

            assert_eq!(wrong, Wrong::Secret, "{url}");
            assert!(!wrong.to_string().contains("ter2"), "{wrong}");
        }
    }

    #[test]
    fn a_secret_in_place_of_its_file_is_not_repeated() {
        let error = std::io::Error::other("words");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mqtt");

        let named = format!("cannot read {}: words", file.display());
        assert_eq!(unreadable_secret(&file, &error), named);
        for secret in ["hunter2", "/hunter2", "./hunter2", "hun/ter2", "/hun/ter2", "hun//ter2=="] {
            let said = unreadable_secret(Path::new(secret), &error);
            assert_eq!(said, "must be the path of a file that can be read: words", "{secret}");
        }
    }

    #[test]
    fn what_is_shown_has_no_secrets() {
        let mut value = serde_json::json!({
            "mqtt": { "url": "mqtt://u:p@ss@h:1883" }, "others": ["redis://:p@h", "a@b", "http://h"],
        });

        mask_secrets(&mut value);

        let expected = serde_json::json!({
            "mqtt": { "url": "mqtt://***@h:1883" }, "others": ["redis://***@h", "a@b", "http://h"],
        });
        assert_eq!(value, expected);
    }
}
