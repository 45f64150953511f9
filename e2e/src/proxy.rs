//! A TCP proxy between a client and a server that simulates bad networks.

mod grants;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

pub use self::grants::Grant;
use self::grants::Rewriter;

/// Behaviour of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Passes everything.
    Up,
    /// Ends all connections, and new ones at once.
    Cut,
    /// Half-open: connections stay, but nothing passes through them again, even after a change of
    /// the link. The same is true for connections that are made meanwhile.
    Silent,
    /// Limits the bandwidth of all connections together.
    Thin(Thin),
    /// Changes the answers of the MQTT broker behind the link. Connections that begin meanwhile are
    /// granted less than they ask for.
    Grants(Grant),
}

/// A link with little bandwidth, shared by all its connections, or with a high latency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thin {
    /// Bytes a second from clients to the server.
    pub up: u32,
    /// Bytes a second from the server to clients.
    pub down: u32,
    /// Delay of each byte, in each direction.
    pub latency: Duration,
}

impl Thin {
    /// A link of about 40 KB a second in each direction, with a delay of 50 ms.
    pub const SLOW: Self = Self { up: 40_000, down: 40_000, latency: Duration::from_millis(50) };
}

/// Parts a second into which the bandwidth is divided.
const SHARES: usize = 20;
/// Size of the socket buffers, in bytes. The default of the kernel is megabytes, which would hold
/// minutes of data for a slow link.
const BUFFER: u32 = 32 * 1024;
/// Most parts on their way in one direction of one connection.
const QUEUE: usize = 1024;

/// A proxy on a free port of loopback. Dropping it ends all its connections.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    state: watch::Sender<State>,
    _listener: JoinSet<()>,
}

/// State of the link. A connection that saw a cut or a silence never recovers, however short it
/// was, so both are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    link: Link,
    /// Port of the server for new connections.
    server: u16,
    cuts: u64,
    silences: u64,
}

impl Proxy {
    /// Listens for connections to a server on this machine.
    ///
    /// # Errors
    /// Fails when there is no free port.
    pub fn start(server: u16) -> anyhow::Result<Self> {
        let listener = listen().context("start a proxy")?;
        let port = listener.local_addr().context("read the proxy's port")?.port();
        let state = watch::Sender::new(State { link: Link::Up, server, cuts: 0, silences: 0 });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, state.subscribe()));
        Ok(Self { port, state, _listener: tasks })
    }

    /// Returns the port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Leads new connections to another server on this machine. Existing connections stay.
    pub fn lead_to(&self, server: u16) {
        self.state.send_modify(|state| state.server = server);
    }

    /// Changes the behaviour of the link from now on.
    pub fn set(&self, link: Link) {
        self.state.send_modify(|state| {
            state.link = link;
            state.cuts += u64::from(link == Link::Cut);
            state.silences += u64::from(link == Link::Silent);
        });
    }
}

/// Creates a socket with small buffers.
fn socket() -> std::io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(BUFFER)?;
    Ok(socket)
}

fn listen() -> std::io::Result<TcpListener> {
    let socket = socket()?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    socket.listen(1024)
}

async fn accept(listener: TcpListener, state: watch::Receiver<State>) {
    let mut connections = JoinSet::new();
    let wires = [Wire::default(), Wire::default()];
    loop {
        tokio::select! {
            // An error while accepting affects only that connection.
            Ok((client, _)) = listener.accept() => {
                let now = *state.borrow();
                if now.link != Link::Cut {
                    let lines = [Direction::Up, Direction::Down].map(|direction| {
                        let wire = wires[direction as usize].clone();
                        Relay { state: state.clone(), begun: now, direction, wire }
                    });
                    connections.spawn(connect(client, now.server, lines));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connect(client: TcpStream, server: u16, [up, down]: [Relay; 2]) {
    let Ok(socket) = socket() else { return };
    let server = socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, server)));
    let Ok(server) = server.await else { return };
    for stream in [&client, &server] {
        // A failure only makes the connection slower.
        drop(stream.set_nodelay(true));
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // The first error ends both directions.
    drop(tokio::try_join!(up.carry(from_client, to_server), down.carry(from_server, to_client)));
}

/// Reason to stop: the link was cut, or one of the two sides closed its connection.
struct Gone;

/// Direction of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    /// From a client to the server.
    Up,
    /// From the server to a client.
    Down,
}

/// One direction of a slow link, where one part passes after another. Clones share the same link.
#[derive(Debug, Clone, Default)]
struct Wire(Arc<Mutex<Option<Instant>>>);

impl Wire {
    /// Reserves the link for some bytes, and returns when they have passed.
    fn pass(&self, bytes: usize, bytes_per_second: u32) -> Instant {
        let mut is_free_at = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let starts = is_free_at.map_or(now, |free| free.max(now));
        let lasts = Duration::from_secs_f64(bytes as f64 / f64::from(bytes_per_second));
        *is_free_at.insert(starts + lasts)
    }
}

/// One direction of a connection, with its view of the link.
#[derive(Debug, Clone)]
struct Relay {
    state: watch::Receiver<State>,
    begun: State,
    direction: Direction,
    wire: Wire,
}

/// Bytes on their way, with the time of their arrival.
type Part = (Option<Instant>, Vec<u8>);

impl Relay {
    /// Returns the behaviour of the link toward this connection.
    fn link(&mut self) -> Link {
        let now = *self.state.borrow_and_update();
        if now.cuts > self.begun.cuts {
            Link::Cut
        } else if now.silences > self.begun.silences {
            Link::Silent
        } else {
            now.link
        }
    }

    /// Carries bytes until the sender is done.
    async fn carry(self, from: OwnedReadHalf, to: OwnedWriteHalf) -> Result<(), Gone> {
        let (queue, parts) = mpsc::channel(QUEUE);
        tokio::try_join!(self.clone().take(from, queue), self.give(parts, to)).map(drop)
    }

    async fn take(
        mut self,
        mut from: OwnedReadHalf,
        queue: mpsc::Sender<Part>,
    ) -> Result<(), Gone> {
        let mut buffer = vec![0; 64 * 1024];
        let mut rewriter = match (self.begun.link, self.direction) {
            (Link::Grants(grant), Direction::Down) => Some(Rewriter::new(grant)),
            _ => None,
        };
        loop {
            let thin = match self.link() {
                Link::Up | Link::Grants(_) => None,
                Link::Thin(thin) => Some(thin),
                Link::Cut => return Err(Gone),
                // Keeps both sockets open, and never uses them again.
                Link::Silent => std::future::pending().await,
            };
            let rate = thin.map(|thin| match self.direction {
                Direction::Up => thin.up,
                Direction::Down => thin.down,
            });
            let most = rate.map_or(buffer.len(), |rate| (rate as usize / SHARES).max(1));
            let most = most.min(buffer.len());
            let read = tokio::select! {
                _ = self.state.changed() => continue,
                read = from.read(&mut buffer[..most]) => read,
            };
            let count = read.map_err(|_| Gone)?;
            if count == 0 {
                return Ok(());
            }
            let bytes = match &mut rewriter {
                Some(rewriter) => rewriter.rewrite(&buffer[..count]),
                None => buffer[..count].to_vec(),
            };
            let passed = rate.map(|rate| self.wire.pass(count, rate));
            let arrives = passed.zip(thin).map(|(passed, thin)| passed + thin.latency);
            queue.send((arrives, bytes)).await.map_err(|_| Gone)?;
            if let Some(passed) = passed {
                self.until_cut(sleep_until(passed)).await?;
            }
        }
    }

    async fn give(
        mut self,
        mut parts: mpsc::Receiver<Part>,
        mut to: OwnedWriteHalf,
    ) -> Result<(), Gone> {
        while let Some((arrives, bytes)) = self.until_cut(parts.recv()).await? {
            if let Some(arrives) = arrives {
                self.until_cut(sleep_until(arrives)).await?;
            }
            self.until_cut(to.write_all(&bytes)).await?.map_err(|_| Gone)?;
        }
        to.shutdown().await.map_err(|_| Gone)
    }

    /// Waits for the future, unless the link is cut. On a silent link it waits until the next cut.
    async fn until_cut<T>(&mut self, wait: impl Future<Output = T>) -> Result<T, Gone> {
        let State { cuts, silences, .. } = self.begun;
        let is_over = |now: &State| now.cuts > cuts || now.silences > silences;
        tokio::select! {
            biased;
            _ = self.state.wait_for(is_over) => {}
            done = wait => return Ok(done),
        }
        // A cut also ends silent connections.
        drop(self.state.wait_for(|now| now.cuts > cuts).await);
        Err(Gone)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    /// Starts a server that sends back what it receives.
    async fn echo() -> anyhow::Result<(u16, JoinSet<()>)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    drop(tokio::io::copy(&mut from, &mut to).await);
                });
            }
        });
        Ok((port, tasks))
    }

    async fn ask(stream: &mut TcpStream) -> std::io::Result<()> {
        stream.write_all(b"ping").await?;
        stream.read_exact(&mut [0; 4]).await.map(drop)
    }

    #[tokio::test]
    async fn a_cut_ends_connections_and_silence_holds_them() -> anyhow::Result<()> {
        let (server, _tasks) = echo().await?;
        let proxy = Proxy::start(server)?;
        let connect = async || TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await;
        let short = Duration::from_millis(200);

        let mut silenced = connect().await?;
        ask(&mut silenced).await?;
        proxy.set(Link::Silent);
        proxy.set(Link::Up);
        assert!(timeout(short, ask(&mut silenced)).await.is_err(), "nothing passes any more");

        let mut slowed = connect().await?;
        proxy.set(Link::Thin(Thin::SLOW));
        ask(&mut slowed).await?;
        proxy.set(Link::Cut);
        let ended = timeout(Duration::from_secs(10), ask(&mut slowed)).await?;
        assert!(ended.is_err(), "a cut ends it");
        proxy.set(Link::Up);
        ask(&mut connect().await?).await?;
        Ok(())
    }

    #[tokio::test]
    async fn all_connections_share_what_a_thin_link_passes() -> anyhow::Result<()> {
        let (server, _tasks) = echo().await?;
        let proxy = Proxy::start(server)?;
        let latency = Duration::from_millis(100);
        proxy.set(Link::Thin(Thin { up: 20_000, down: 1_000_000, latency }));
        let started = Instant::now();

        let exchange = async || {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await?;
            stream.write_all(&[7; 5_000]).await?;
            stream.read_exact(&mut [0; 5_000]).await
        };
        let (first, second) = tokio::join!(exchange(), exchange());
        first?;
        second?;

        // 10,000 bytes at 20,000 a second, and one round trip.
        assert!(started.elapsed() >= Duration::from_millis(700), "{:?}", started.elapsed());
        Ok(())
    }
}
