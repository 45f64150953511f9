//! Opening of streams to a broker: name resolution, TCP and TLS.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::security;
use super::wire::Stream;
use crate::config::Mqtt;

pub(super) type Dialing<'a> = Pin<Box<dyn Future<Output = Result<Stream, String>> + Send + 'a>>;

/// Opener of streams to a broker.
pub(super) trait Dial: Send + Sync {
    /// Opens a stream. Callers limit the time.
    fn dial<'a>(&'a self, settings: &'a Mqtt) -> Dialing<'a>;
}

/// Opener over TCP, with TLS if the URL asks for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Network;

impl Dial for Network {
    fn dial<'a>(&'a self, settings: &'a Mqtt) -> Dialing<'a> {
        Box::pin(async move {
            let broker = settings.broker().map_err(|wrong| wrong.to_string())?;
            let (host, port) = (broker.host(), broker.port());
            let deadline = Instant::now() + settings.connect_timeout;
            let addresses = resolve(host, port, settings.connect_timeout / 2).await?;
            let stream = connect(&addresses, deadline).await?;
            if !broker.is_tls() {
                return Ok(Box::new(stream) as Stream);
            }
            let tls = settings.tls.clone();
            let tls = security::reading(move || service::tls::client(&tls)).await?;
            let connector = TlsConnector::from(tls);
            let name = ServerName::try_from(host.to_owned())
                .map_err(|error| format!("{host}: {error}"))?;
            let stream = connector.connect(name, stream).await;
            Ok(Box::new(stream.map_err(|error| format!("TLS: {error}"))?) as Stream)
        })
    }
}

/// Returns a host's addresses. The look-up blocks a separate thread, so an unresponsive name server
/// delays nothing else.
async fn resolve(host: &str, port: u16, most: Duration) -> Result<Vec<SocketAddr>, String> {
    let found = timeout(most, lookup_host((host, port))).await;
    let found = found.map_err(|_| format!("no name server has answered for {host} in {most:?}"))?;
    let found: Vec<_> = found.map_err(|error| format!("look up {host}: {error}"))?.collect();
    match found.is_empty() {
        true => Err(format!("{host} has no address")),
        false => Ok(found),
    }
}

/// Tries the addresses one after the other. Each gets its share of the remaining time.
async fn connect(addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream, String> {
    let mut failures = Vec::new();
    for (index, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = share(left, &addresses[index..]);
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true).map_err(|error| format!("{address}: {error}"))?;
                return Ok(stream);
            }
            Ok(Err(error)) => failures.push(format!("{address}: {error}")),
            Err(_) => failures.push(format!("{address}: no answer in {share:?}")),
        }
    }
    Err(failures.join("; "))
}

/// Returns the share of the time for the first of these addresses. One further share is reserved
/// for TLS and MQTT.
fn share(left: Duration, addresses: &[SocketAddr]) -> Duration {
    left / u32::try_from(addresses.len() + 1).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_dead_first_address_does_not_hide_the_second() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let alive = listener.local_addr().unwrap();
        // The backlog of this listener is full, so it neither accepts nor refuses another
        // connection.
        let full = socket2_full().await;
        let deadline = Instant::now() + Duration::from_secs(3);

        let stream = connect(&[full.address, alive], deadline).await.unwrap();

        assert_eq!(stream.peer_addr().unwrap(), alive);
    }

    #[test]
    fn each_address_and_tls_have_an_equal_part_of_the_time() {
        let addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 1883)); 3];

        assert_eq!(share(Duration::from_secs(12), &addresses), Duration::from_secs(3));
        assert_eq!(share(Duration::from_secs(12), &addresses[2..]), Duration::from_secs(6));
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_is_named_with_the_time_that_it_had() {
        let full = socket2_full().await;
        let url = format!("mqtt://{}", full.address).into();
        let connect_timeout = Duration::from_millis(200);
        let settings = Mqtt { url, connect_timeout, ..Mqtt::default() };

        let error = Network.dial(&settings).await.err().unwrap();

        let time = error.strip_prefix(&format!("{}: no answer in ", full.address)).unwrap();
        assert_ne!(time, "0ns");
    }

    #[tokio::test]
    async fn a_plain_broker_is_dialled_by_its_name() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("mqtt://localhost:{}", listener.local_addr().unwrap().port()).into();
        let settings = Mqtt { url, ..Mqtt::default() };

        let mut stream = Network.dial(&settings).await.unwrap();
        stream.write_all(b"plain").await.unwrap();

        let (mut accepted, _) = listener.accept().await.unwrap();
        let mut read = [0; 5];
        accepted.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"plain");
    }

    struct Full {
        address: SocketAddr,
        _held: (TcpListener, Vec<tokio::task::JoinHandle<std::io::Result<TcpStream>>>),
    }

    async fn socket2_full() -> Full {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let held = (0..8).map(|_| tokio::spawn(TcpStream::connect(address))).collect();
        // The accepted ones are done by now. The others hang.
        tokio::time::sleep(Duration::from_millis(200)).await;
        Full { address, _held: (listener, held) }
    }
}
