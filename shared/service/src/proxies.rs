//! Proxies named by the environment, and the calls that bypass them.

use std::ffi::OsString;

/// Variables that name a proxy for `https`. curl and Google's other clients read both cases.
const VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// Returns a line for people if a variable names a proxy. The line does not show the proxy, because
/// its URL may hold a password.
pub(crate) fn note() -> Option<String> {
    note_of(|name| std::env::var_os(name))
}

fn note_of(value: impl Fn(&str) -> Option<OsString>) -> Option<String> {
    let set = |name| value(name).filter(|proxy| !proxy.is_empty()).map(|proxy| (name, proxy));
    let (name, proxy) = VARIABLES.into_iter().find_map(set)?;
    let (more, direct) = if is_plain(&proxy.to_string_lossy()) {
        (", and publishing and receiving over Pub/Sub", "")
    } else {
        ("", "Publishing and receiving over Pub/Sub (they need a proxy with http://), ")
    };
    Some(format!(
        "{name} is set: calls over REST and for tokens{more} go through the proxy, except to hosts \
         in NO_PROXY. {direct}Firestore, Storage Write, MQTT and Redis connect directly"
    ))
}

/// Returns whether a proxy can be reached without TLS and without SOCKS. Only such proxies are used
/// for publishing and receiving.
fn is_plain(proxy: &str) -> bool {
    proxy.split_once("://").is_none_or(|(scheme, _)| scheme.eq_ignore_ascii_case("http"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_told_with_what_does_not_go_through_it() {
        let note = |proxy: &str| {
            note_of(|name| (name == "https_proxy").then(|| proxy.into())).unwrap_or_default()
        };
        let publishing = "and publishing and receiving over Pub/Sub go through the proxy";

        for proxy in ["http://user:hunter2@proxy:1", "HTTP://proxy:1", "user:hunter2@proxy:1"] {
            let note = note(proxy);
            assert!(note.starts_with("https_proxy is set: calls over REST"), "{note}");
            assert!(note.contains(publishing), "{note}");
            assert!(note.contains("Firestore, Storage Write, MQTT and Redis connect directly"));
            assert!(!note.contains("hunter2"), "{note}");
        }
        for proxy in ["https://proxy:1", "socks5://proxy:1"] {
            let note = note(proxy);
            assert!(!note.contains(publishing), "{note}");
            assert!(note.contains("Publishing and receiving over Pub/Sub (they need"), "{note}");
        }
        assert_eq!(note(""), "");
    }
}
