//! Advice for missing Google credentials.

use std::env;
use std::error::Error;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Phrases by which the clients' errors about credentials are recognized. Each client words them
/// differently.
const WORDS: [&str; 5] =
    ["auth headers", "authentication headers", "auth token", "Fetching the token", "No token"];
/// Text that reports missing credentials and says what to do.
pub const MISSING: &str = "no Google credentials were found: set GOOGLE_APPLICATION_CREDENTIALS to a key \
                       file, or run `gcloud auth application-default login`, or give the pod a \
                       service account";

/// Returns an error and its causes in one line. If credentials are missing, the line also says what
/// to do.
#[must_use]
pub fn explain(error: &(dyn Error + 'static)) -> String {
    hint(chain(error), is_configured())
}

/// Returns whether a text made by [`explain`] says what to do about missing credentials.
#[must_use]
pub fn is_about_missing(text: &str) -> bool {
    text.contains(MISSING)
}

/// Returns an error and its causes, each only once.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // Many clients already include the cause in their own text.
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

fn hint(text: String, is_configured: bool) -> String {
    let is_about_credentials = WORDS.iter().any(|words| text.contains(words));
    if is_about_credentials && !is_configured { format!("{MISSING} ({text})") } else { text }
}

/// True if a service of this process has credentials that are no Application Default Credentials.
static HAS_OWN: AtomicBool = AtomicBool::new(false);

/// Notes that credentials exist that are no Application Default Credentials. A later failure is not
/// because they are missing.
pub(crate) fn note_configured() {
    HAS_OWN.store(true, Ordering::Relaxed);
}

/// Returns whether credentials exist, other than those of the machine.
fn is_configured() -> bool {
    let file = |home| Path::new(&home).join(".config/gcloud/application_default_credentials.json");
    HAS_OWN.load(Ordering::Relaxed)
        || env::var_os("GOOGLE_APPLICATION_CREDENTIALS").is_some()
        || env::var_os("HOME").is_some_and(|home| file(home).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_credentials_are_said_with_what_to_do() {
        let cause = anyhow::anyhow!("Fetching the token resulted in transient errors");
        let text = chain(cause.context("cannot send the request").as_ref());

        let said = hint(text.clone(), false);

        assert_eq!(
            text,
            "cannot send the request: Fetching the token resulted in transient errors"
        );
        assert!(said.contains("gcloud auth application-default login"), "{said}");
        assert!(said.ends_with(&format!("({text})")), "{said}");
        assert!(is_about_missing(&said) && !is_about_missing(&text));
        assert_eq!(hint(text.clone(), true), text, "there are some, and they do not work");
    }

    #[test]
    fn other_errors_are_said_as_they_are_and_causes_once() {
        let error = anyhow::anyhow!("c").context("b").context("a: b");

        assert_eq!(explain(error.as_ref()), "a: b: c");
        assert_eq!(hint("not found".into(), false), "not found");
    }
}
