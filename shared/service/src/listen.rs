//! Binding to a port.

use std::io::ErrorKind;
use std::net::SocketAddr;

use anyhow::Context as _;
use tokio::net::TcpListener;

/// Listens at a host and a port. From then on, callers are queued instead of refused.
///
/// `keys` are the names of the two settings, for the error text.
///
/// # Errors
/// Fails when it cannot listen there. The error names the setting to change.
pub async fn bind(
    host: &str,
    port: u16,
    keys: [&str; 2],
) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind((host, port)).await.map_err(|error| {
        let advice = advice(error.kind(), keys);
        anyhow::Error::new(error).context(format!("listen on {host}:{port}: {advice}"))
    })?;
    let address = listener.local_addr().context("read the address of the listener")?;
    Ok((listener, address))
}

fn advice(kind: ErrorKind, [host, port]: [&str; 2]) -> String {
    match kind {
        ErrorKind::AddrInUse => format!("set {port} to a free port, or to 0 for any"),
        ErrorKind::PermissionDenied => format!("set {port} to 1024 or above"),
        // The address belongs to another machine, or the name is unknown.
        _ => format!("set {host} to an address of this machine, such as 0.0.0.0"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 2] = ["http.host", "http.port"];

    #[tokio::test]
    async fn a_taken_port_and_a_foreign_address_are_told_apart() {
        let (_taken, address) = bind("127.0.0.1", 0, KEYS).await.unwrap();

        let taken = bind("127.0.0.1", address.port(), KEYS).await.unwrap_err().to_string();
        // Address reserved for documentation [RFC 5737]. No machine has it.
        let foreign = bind("192.0.2.1", 0, KEYS).await.unwrap_err().to_string();

        assert!(taken.ends_with("set http.port to a free port, or to 0 for any"), "{taken}");
        assert!(
            foreign.ends_with("set http.host to an address of this machine, such as 0.0.0.0"),
            "{foreign}"
        );
    }
}
