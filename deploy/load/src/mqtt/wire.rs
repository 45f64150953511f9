//! Byte stream of one connection. It writes, reads and keeps alive at the same time.

use std::time::Duration;

use bytes::BytesMut;
use rustls::pki_types::ServerName;
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf,
};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsConnector;

use super::MqttLink;
use super::packets::{Attempt, Codec, Event, Granted, Session};
use crate::content::Message;

/// Longest wait until the broker closes a connection that is over.
const LEAVE_LIMIT: Duration = Duration::from_secs(1);
/// Space in the read buffer.
const READ_BYTES: usize = 4096;

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

type Stream = Box<dyn Duplex>;

/// Connection that the broker has accepted.
pub(super) struct Wire {
    from: ReadHalf<Stream>,
    to: WriteHalf<Stream>,
    codec: Codec,
    inbox: BytesMut,
    outbox: BytesMut,
    must_flush: bool,
    /// Longest time without a packet; `None` has no pings.
    keep_alive: Option<Duration>,
    pinged_at: Instant,
    heard_at: Instant,
}

impl Wire {
    /// Connects, and waits until the broker accepts.
    ///
    /// # Errors
    /// Fails when the broker does not answer in time, or refuses.
    pub(super) async fn open(
        link: &MqttLink,
        device: u32,
        session: Session,
    ) -> Result<(Self, Granted), String> {
        let limit = link.connect_timeout;
        let opened = timeout(limit, Self::connect(link, device, session)).await;
        opened.unwrap_or_else(|_| Err(format!("no answer in {limit:?}")))
    }

    async fn connect(
        link: &MqttLink,
        device: u32,
        session: Session,
    ) -> Result<(Self, Granted), String> {
        let (from, to) = tokio::io::split(dial(link).await?);
        let codec = Codec::new(link.version);
        let mut outbox = BytesMut::new();
        codec.connect(link, device, session, &mut outbox)?;
        let now = Instant::now();
        let mut wire = Self {
            from,
            to,
            codec,
            inbox: BytesMut::new(),
            outbox,
            must_flush: false,
            keep_alive: None,
            pinged_at: now,
            heard_at: now,
        };
        loop {
            if let Event::Connected(granted) = wire.next().await? {
                wire.codec.limit(granted.max_packet_bytes);
                let seconds = granted.keep_alive.unwrap_or(link.keep_alive);
                wire.keep_alive = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
                wire.pinged_at = Instant::now();
                return Ok((wire, granted));
            }
        }
    }

    /// Queues a PUBLISH. [`Wire::next`] writes it.
    ///
    /// # Errors
    /// Fails for a packet that is larger than the broker takes.
    pub(super) fn publish(
        &mut self,
        message: &Message,
        packet_id: u16,
        attempt: Attempt,
    ) -> Result<(), String> {
        self.codec.publish(message, packet_id, attempt, &mut self.outbox)
    }

    /// Returns the number of bytes that are queued.
    pub(super) fn queued_bytes(&self) -> usize {
        self.outbox.len()
    }

    /// Writes what is queued, sends pings, and returns the next event. Cancel safe.
    ///
    /// # Errors
    /// Fails when the connection has ended, or the broker has been silent for too long.
    pub(super) async fn next(&mut self) -> Result<Event, String> {
        loop {
            if let Some(event) = self.codec.decode(&mut self.inbox)? {
                return Ok(event);
            }
            self.inbox.reserve(READ_BYTES);
            let has_output = !self.outbox.is_empty();
            let keep_alive = self.keep_alive.unwrap_or_default();
            let has_pings = self.keep_alive.is_some();
            tokio::select! {
                pushed = push(&mut self.to, &mut self.outbox), if has_output || self.must_flush => {
                    pushed.map_err(|error| format!("write: {error}"))?;
                    self.must_flush = has_output;
                }
                read = self.from.read_buf(&mut self.inbox) => {
                    match read {
                        Ok(0) => return Err("the broker closed the connection".into()),
                        Ok(_) => self.heard_at = Instant::now(),
                        Err(error) => return Err(format!("read: {error}")),
                    }
                }
                // A quarter of the time is left for the ping to arrive.
                () = sleep_until(self.pinged_at + keep_alive * 3 / 4), if has_pings => {
                    self.codec.ping(&mut self.outbox)?;
                    self.pinged_at = Instant::now();
                }
                () = sleep_until(self.heard_at + keep_alive * 3 / 2), if has_pings => {
                    return Err(format!("the broker has been silent for {:?}", keep_alive * 3 / 2));
                }
            }
        }
    }

    /// Says goodbye, and waits shortly until the broker closes the connection.
    pub(super) async fn leave(mut self) {
        let leave = async {
            self.codec.disconnect(&mut self.outbox).map_err(std::io::Error::other)?;
            self.to.write_all_buf(&mut self.outbox).await?;
            self.to.shutdown().await?;
            let mut dropped = [0; READ_BYTES];
            while self.from.read(&mut dropped).await? > 0 {}
            std::io::Result::Ok(())
        };
        // Everything is confirmed, so a failure here loses nothing.
        drop(timeout(LEAVE_LIMIT, leave).await);
    }
}

/// Writes some bytes, or flushes if there are none. Both are cancel safe.
async fn push(to: &mut WriteHalf<Stream>, outbox: &mut BytesMut) -> std::io::Result<()> {
    match outbox.is_empty() {
        true => to.flush().await,
        false => to.write_buf(outbox).await.map(drop),
    }
}

async fn dial(link: &MqttLink) -> Result<Stream, String> {
    let broker = &link.broker;
    let stream = TcpStream::connect((broker.host.as_str(), broker.port)).await;
    let stream = stream.map_err(|error| format!("connect: {error}"))?;
    stream.set_nodelay(true).map_err(|error| format!("connect: {error}"))?;
    let Some(tls) = &link.tls else { return Ok(Box::new(stream)) };
    let name = ServerName::try_from(broker.host.clone()).map_err(|error| error.to_string())?;
    let connector = TlsConnector::from(std::sync::Arc::clone(tls));
    let stream = connector.connect(name, stream).await;
    Ok(Box::new(stream.map_err(|error| format!("TLS: {error}"))?))
}
