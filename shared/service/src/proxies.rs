//! Proxies named by the environment, and the calls that bypass them.

use tracing::warn;

/// Variables that name a proxy for `https`. curl and Google's other clients read both cases.
const VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// Returns a line for people if a variable names a proxy. The line does not show the proxy, because
/// its URL may hold a password.
pub(crate) fn note() -> Option<String> {
    note_of(|name| std::env::var_os(name).is_some_and(|proxy| !proxy.is_empty()))
}

/// Logs the line of [`note`].
pub(crate) fn warn() {
    if let Some(note) = note() {
        warn!("{note}");
    }
}

fn note_of(is_set: impl Fn(&str) -> bool) -> Option<String> {
    let name = VARIABLES.into_iter().find(|name| is_set(name))?;
    Some(format!(
        "{name} is set: calls over REST and those for tokens go through the proxy; gRPC (Pub/Sub, \
         Firestore, Storage Write), MQTT and Redis cannot, and connect directly"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_told_with_what_does_not_go_through_it() {
        let note = note_of(|name| name == "https_proxy").unwrap();

        assert!(note.starts_with("https_proxy is set: calls over REST"), "{note}");
        assert_eq!(note_of(|_| false), None);
    }
}
