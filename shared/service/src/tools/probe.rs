//! Readiness probe. It asks the service in this container whether it is ready. It serves health
//! checks in images that contain no other program.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::output;
use crate::settings::Http;

/// Maximum wait for a part of the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks `/readyz`.
///
/// # Errors
/// Fails when the service does not answer, or answers that it is not ready.
pub(crate) fn readiness(http: &Http) -> anyhow::Result<()> {
    if http.port == 0 {
        bail!("http.port is 0, so nobody knows where the service listens: set it to a port");
    }
    // A server that listens on all addresses also answers on loopback.
    let host = if http.host == "0.0.0.0" { "127.0.0.1" } else { &http.host };
    let mut stream = TcpStream::connect((host, http.port))
        .with_context(|| format!("nobody answers at {host}:{}", http.port))?;
    stream.set_read_timeout(Some(PATIENCE)).context("set a time-out")?;
    let question =
        format!("GET /readyz HTTP/1.0\r\nHost: {host}\r\nAccept: application/json\r\n\r\n");
    stream.write_all(question.as_bytes()).context("ask /readyz")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("read the answer of /readyz")?;
    let status = answer.split(' ').nth(1);
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    output::line(body);
    if status == Some("200") { Ok(()) } else { bail!("not ready") }
}
