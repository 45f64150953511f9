//! Byte stream of one connection. Writes and keep-alive continue while nothing is read.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf, split,
};
use tokio::time::{Instant, sleep_until};

use super::client::{Codec, Event, Request};

/// Stream of bytes to a broker.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

pub(super) type Stream = Box<dyn Duplex>;

/// Permission to read from the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// The next packet is read.
    On,
    /// Nothing is read from the socket, so TCP slows the broker down. Its silence does not count as
    /// a failure then.
    Off,
}

/// Connection to a broker.
pub(super) struct Wire {
    from: ReadHalf<Stream>,
    to: WriteHalf<Stream>,
    pub codec: Codec,
    inbox: BytesMut,
    outbox: BytesMut,
    must_flush: bool,
    is_broken: bool,
    keep_alive: Duration,
    pinged_at: Instant,
    /// Time since which the broker has been silent, although it could be heard.
    heard_at: Instant,
    written_at: Instant,
    was_reading: bool,
    pings: u64,
    pongs: u64,
}

impl Wire {
    pub(super) fn new(stream: Stream, codec: Codec, keep_alive: Duration) -> Self {
        let (from, to) = split(stream);
        let now = Instant::now();
        Self {
            from,
            to,
            codec,
            inbox: BytesMut::new(),
            outbox: BytesMut::new(),
            must_flush: false,
            is_broken: false,
            keep_alive,
            pinged_at: now,
            heard_at: now,
            written_at: now,
            was_reading: true,
            pings: 0,
            pongs: 0,
        }
    }

    /// Sets the keep-alive that both sides agreed on.
    pub(super) fn set_keep_alive(&mut self, keep_alive: Duration) {
        self.keep_alive = keep_alive;
        self.pinged_at = Instant::now();
    }

    /// Queues a request. [`Wire::next`] and [`Wire::leave`] write it.
    ///
    /// # Errors
    /// Fails when it is larger than the broker accepts.
    pub(super) fn say(&mut self, request: Request<'_>) -> Result<(), String> {
        self.codec.encode(request, &mut self.outbox)
    }

    /// Queues a ping. Returns its number.
    pub(super) fn ping(&mut self) -> Result<u64, String> {
        self.say(Request::Ping)?;
        self.pinged_at = Instant::now();
        self.pings += 1;
        Ok(self.pings)
    }

    /// Returns true if the broker has answered this ping.
    pub(super) fn is_answered(&self, ping: u64) -> bool {
        self.pongs >= ping
    }

    /// Returns the time of the last write if everything is written, else `None`.
    pub(super) fn all_written_at(&self) -> Option<Instant> {
        (self.outbox.is_empty() && !self.must_flush).then_some(self.written_at)
    }

    /// Returns the next event, if it was read already.
    ///
    /// # Errors
    /// Fails for data that is no packet, and for a packet that is too large.
    pub(super) fn decoded(&mut self) -> Result<Option<Event>, String> {
        let event = self.codec.decode(&mut self.inbox)?;
        self.pongs += u64::from(matches!(event, Some(Event::Ponged)));
        Ok(event)
    }

    /// Writes queued requests, sends pings, and returns the broker's next event. Cancel safe.
    ///
    /// # Errors
    /// Fails when the connection has ended, or when the broker has been silent for one and a half
    /// keep-alives. The broker would wait equally long for us [MQTT-3.1.2-22].
    pub(super) async fn next(&mut self, reading: Reading) -> Result<Event, String> {
        let may_read = reading == Reading::On;
        if may_read && !self.was_reading {
            self.heard_at = Instant::now();
        }
        self.was_reading = may_read;
        let patience = self.keep_alive * 3 / 2;
        loop {
            if may_read && let Some(event) = self.decoded()? {
                return Ok(event);
            }
            // A quarter of the keep-alive is left for the ping to arrive.
            let ping_at = self.pinged_at + self.keep_alive * 3 / 4;
            let has_output = !self.outbox.is_empty();
            tokio::select! {
                pushed = push(&mut self.to, &mut self.outbox), if has_output || self.must_flush => {
                    if let Err(error) = pushed {
                        return self.broken(format!("write to the broker: {error}"));
                    }
                    self.must_flush = has_output;
                    self.written_at = Instant::now();
                }
                read = self.from.read_buf(&mut self.inbox), if may_read => {
                    match read {
                        Ok(0) => return self.broken("the broker closed the connection".into()),
                        Ok(_) => self.heard_at = Instant::now(),
                        Err(error) => {
                            return self.broken(format!("read from the broker: {error}"));
                        }
                    }
                }
                () = sleep_until(ping_at) => drop(self.ping()?),
                () = sleep_until(self.heard_at + patience), if may_read => {
                    return self.broken(format!("the broker has been silent for {patience:?}"));
                }
            }
        }
    }

    /// Records that nothing can be written any more.
    fn broken(&mut self, reason: String) -> Result<Event, String> {
        self.is_broken = true;
        Err(reason)
    }

    /// Writes queued requests and a DISCONNECT, then waits until the broker closes the connection.
    ///
    /// Bytes that the broker still sends are read and dropped. Closing a socket with unread bytes
    /// resets the connection. A reset could destroy what was written before it.
    pub(super) async fn leave(mut self) {
        if self.is_broken || self.say(Request::Disconnect).is_err() {
            return;
        }
        let write = async {
            self.to.write_all_buf(&mut self.outbox).await?;
            self.to.shutdown().await
        };
        let read = async {
            let mut dropped = [0; 4096];
            while matches!(self.from.read(&mut dropped).await, Ok(count) if count > 0) {}
        };
        // A failure means that the connection has ended, as intended.
        drop(tokio::join!(write, read));
    }
}

/// Writes some bytes, or flushes if there are none. Both are cancel safe.
async fn push(to: &mut WriteHalf<Stream>, outbox: &mut BytesMut) -> std::io::Result<()> {
    match outbox.is_empty() {
        true => to.flush().await,
        false => to.write_buf(outbox).await.map(drop),
    }
}
