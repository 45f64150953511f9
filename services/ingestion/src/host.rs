//! Ordinal of this replica, taken from its host's name.

/// Maximum number of digits in a StatefulSet's ordinal.
const MAX_DIGITS: usize = 5;

/// Returns the ordinal of this host, such as `2` for `ingestion-2`.
#[must_use]
pub fn ordinal() -> Option<u32> {
    ordinal_of(&std::env::var("HOSTNAME").ok()?)
}

/// Returns the number at the end of a StatefulSet's host name. Names of machines may end with
/// numbers too: an address (`ip-10-0-3-45`) or an id (`web-00412`). These are no ordinals.
fn ordinal_of(host: &str) -> Option<u32> {
    let (name, digits) = host.rsplit_once('-')?;
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    let is_plain = digits.len() <= MAX_DIGITS && (digits == "0" || !digits.starts_with('0'));
    let has_name = name.bytes().any(|byte| byte.is_ascii_alphabetic());
    (is_number && is_plain && has_name && !ends_with_address(host)).then_some(())?;
    digits.parse().ok()
}

/// Returns whether the last four parts are the bytes of an IPv4 address.
fn ends_with_address(host: &str) -> bool {
    let parts = host.rsplit('-').take(4).filter(|part| part.parse::<u8>().is_ok());
    parts.count() == 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stateful_set_gives_the_ordinal_and_an_address_does_not() {
        for (host, expected) in [
            ("ingestion-0", Some(0)),
            ("ingestion-12", Some(12)),
            ("my-ingestion-2-1", Some(1)),
            ("ip-10-0-3-45", None),
            ("ingestion", None),
            ("10-7", None),
            ("web-00412", None),
            ("i-4294967295", None),
            ("ingestion-6d5f9", None),
            ("ingestion-", None),
        ] {
            assert_eq!(ordinal_of(host), expected, "{host}");
        }
    }
}
