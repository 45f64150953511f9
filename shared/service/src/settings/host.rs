//! Addresses and host names. Only their form is checked; nothing is resolved.

use std::net::{IpAddr, Ipv6Addr};

/// Maximum length of a name in characters, and of each of its labels [RFC 1035, 2.3.4].
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// Checks that a text is an address or could be a host name.
///
/// # Errors
/// Returns what would be right. The text itself is never repeated.
pub fn check(host: &str) -> Result<(), &'static str> {
    if host.parse::<IpAddr>().is_ok() || is_scoped(host) {
        return Ok(());
    }
    if host.contains("://") {
        return Err("must be an address or a name without a scheme, such as 0.0.0.0");
    }
    if host.starts_with('[') {
        return Err("must be an address without brackets, such as ::");
    }
    let is_host = |host: &str| host.parse::<IpAddr>().is_ok() || is_name(host);
    if host
        .rsplit_once(':')
        .is_some_and(|(host, port)| is_host(host) && port.parse::<u16>().is_ok())
    {
        return Err("must be an address or a name without its port, which has a key of its own");
    }
    if is_name(host) {
        return Ok(());
    }
    Err("must be an address or a name, such as 0.0.0.0 or 127.0.0.1")
}

/// Returns whether it is an IPv6 address on one network interface, such as `fe80::1%eth0`.
fn is_scoped(host: &str) -> bool {
    host.split_once('%').is_some_and(|(address, interface)| {
        address.parse::<Ipv6Addr>().is_ok() && !interface.is_empty()
    })
}

/// Returns whether it could be a host name. Numbers alone are taken for a mistyped address.
fn is_name(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let is_label = |label: &str| {
        let is_right = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(is_right)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = name.rsplit('.').next().unwrap_or(name);
    name.len() <= MAX_NAME
        && name.split('.').all(is_label)
        && !last.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_are_right() {
        let long = format!("{}.example", "a".repeat(63));
        for host in [
            "0.0.0.0",
            "127.0.0.1",
            "::",
            "::1",
            "fe80::1%eth0",
            "localhost",
            "ingestion-0",
            "my_service.dataflow.svc.cluster.local",
            "example.org.",
            "10.example",
            &long,
        ] {
            assert_eq!(check(host), Ok(()), "{host}");
        }
    }

    #[test]
    fn what_is_neither_is_told_with_what_would_be_right() {
        for (host, right) in [
            ("", "such as 0.0.0.0"),
            ("999.1.1.1", "such as 0.0.0.0"),
            ("1.2.3", "such as 0.0.0.0"),
            ("8080", "such as 0.0.0.0"),
            ("not a host", "such as 0.0.0.0"),
            ("a..b", "such as 0.0.0.0"),
            ("-a", "such as 0.0.0.0"),
            ("user:hunter2@host", "such as 0.0.0.0"),
            ("0.0.0.0/0", "such as 0.0.0.0"),
            ("http://localhost", "without a scheme"),
            ("[::]", "without brackets"),
            ("0.0.0.0:8080", "without its port"),
            ("localhost:8080", "without its port"),
        ] {
            let wrong = check(host).unwrap_err();
            assert!(wrong.contains(right), "{host}: {wrong}");
            assert!(!wrong.contains("hunter2"), "{wrong}");
        }
        assert!(check(&"a".repeat(64)).is_err());
        assert!(check(&["a"; 128].join(".")).is_err());
    }
}
