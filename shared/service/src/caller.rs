//! Callers on the same machine.

use std::net::{IpAddr, SocketAddr};

use axum::http::uri::Authority;
use axum::http::{HeaderMap, header};

/// Address of the other side of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub SocketAddr);

/// Returns true if a request comes from a program on the same machine, for itself.
///
/// A proxy that passes requests of others on adds headers. A web page whose name leads to this machine
/// sends that name as `Host`.
#[must_use]
pub fn is_local(peer: SocketAddr, headers: &HeaderMap) -> bool {
    peer.ip().to_canonical().is_loopback() && !is_forwarded(headers) && has_local_host(headers)
}

/// Returns true if a proxy has added one of its headers to a request.
#[must_use]
pub fn is_forwarded(headers: &HeaderMap) -> bool {
    let of_others = ["forwarded", "x-forwarded-for", "x-real-ip"];
    of_others.iter().any(|name| headers.contains_key(*name))
}

/// Returns true if each header `Host` is a name of this machine itself, or if there is none. A web page
/// of another place, whose name leads to this machine, sends its own name.
#[must_use]
pub fn has_local_host(headers: &HeaderMap) -> bool {
    let mut hosts =
        headers.get_all(header::HOST).iter().map(|host| Authority::try_from(host.as_bytes()));
    hosts.all(|host| host.is_ok_and(|host| is_own(&host)))
}

/// Returns true if an authority, as in `Host` or a URL, is a name or an address of this machine on
/// loopback. One with a user is nobody's name.
#[must_use]
pub fn is_own(authority: &Authority) -> bool {
    let host = authority.host();
    if authority.as_str().contains('@') {
        return false;
    }
    let plain = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if let Ok(address) = plain.parse::<IpAddr>() {
        return address.to_canonical().is_loopback();
    }
    // Not every browser and system takes names below `localhost` for loopback. A hostile DNS server
    // may answer for them.
    plain.strip_suffix('.').unwrap_or(plain).eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn only_a_request_of_this_machine_for_itself_is_local() {
        let is = |peer: &str, name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            is_local(SocketAddr::new(peer.parse().unwrap(), 1), &headers)
        };

        for host in
            ["localhost:8080", "127.0.0.1:8080", "[::1]:8080", "[::1]", "LocalHost", "localhost."]
        {
            assert!(is("127.0.0.1", "host", host), "{host}");
        }
        assert!(is("::1", "accept", "*/*"));
        assert!(is("::ffff:127.0.0.1", "host", "127.0.0.1"));
        for host in [
            "evil.example.org:8080",
            "evil.example.org",
            "evil.localhost",
            "evil@localhost",
            "10.0.0.1:80",
            "",
        ] {
            assert!(!is("127.0.0.1", "host", host), "{host}");
        }
        assert!(!is("127.0.0.1", "x-forwarded-for", "10.0.0.1"));
        assert!(!is("127.0.0.1", "forwarded", "for=10.0.0.1"));
        assert!(!is("10.0.0.1", "host", "localhost"));
    }
}
